"""A canary for the kernels: run each in Triton on small inputs and compare with float64 torch.

A mismatch of versions can make Triton's interpreter return zeros without an error, and bfloat16 has
been silently wrong there, so trusting an import is not enough.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from litellama import kernels
from litellama.bench.case import normal
from litellama.bench.elementwise import KERNELS as ELEMENTWISE
from litellama.kernels import AttentionBatch

TOKENS, WIDTH = 3, 256  # three rows; two of rope's heads
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64  # of the attention kernels
# Largest error allowed, relative to 1 + |expected|: a few roundings of the result's dtype.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Verdict:
    """What one kernel did in one dtype; ``problem`` is empty when it was right."""

    kernel: str
    dtype: str
    problem: str


# A kernel's arguments: the tensors that come in the dtype that is tried, and all others.
Arguments = tuple[tuple[torch.Tensor, ...], tuple[Any, ...]]


def _elementwise(name: str, device: torch.device) -> Arguments:
    return ELEMENTWISE[name].make(TOKENS, WIDTH, device), ()


def _matvec(device: torch.device) -> Arguments:
    return normal(device, (TOKENS, WIDTH), (40, WIDTH), (40,)), ()


def _dense(device: torch.device) -> Arguments:
    shapes = (1, HEADS, 20, HEAD_DIM), *[(1, KV_HEADS, 37, HEAD_DIM)] * 2
    return normal(device, *shapes), ()


def _paged(new_tokens: tuple[int, int], device: torch.device) -> Arguments:
    """Two sequences of 5 and 40 keys, in blocks of 16 that lie in any order."""

    def ints(*values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    cache = (5, 16, KV_HEADS, HEAD_DIM)
    total = sum(new_tokens)
    batch = AttentionBatch(
        query_starts=ints(0, new_tokens[0], total), seq_lens=ints(5, 40),
        block_table=ints([3, 0, 0], [1, 4, 2]), block_size=16,
        slots=torch.zeros(total, dtype=torch.int64, device=device),  # where nothing is written now
        max_query_len=max(new_tokens), max_seq_len=40,
    )  # fmt: skip
    return normal(device, (total, HEADS, HEAD_DIM), cache, cache), (batch,)


def _sample(device: torch.device) -> Arguments:
    """The likeliest token, one of all, and one of those that pass every filter."""

    def row(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    top_k, seeds, steps = (
        row(*values, dtype=torch.int64) for values in ((0, 0, 50), (1, 2, 3), (0, 7, 9))
    )
    parameters = (row(0, 1, 0.7), top_k, row(1, 1, 0.9), row(0, 0, 0.01), seeds, steps)
    return normal(device, (3, 1000)), parameters


CASES: dict[str, Callable[[torch.device], Arguments]] = {
    **{name: functools.partial(_elementwise, name) for name in ELEMENTWISE},
    "matvec": _matvec,
    "flash_attention": _dense,
    "flash_attention_varlen": functools.partial(_paged, (2, 19)),
    "flash_decoding": functools.partial(_paged, (1, 1)),
    "sample": _sample,
}


def run(device: torch.device, backend: str = "triton") -> Iterator[Verdict]:
    """Try the kernels of a model's step in float32, float16 and bfloat16."""
    for name in CASES:
        for dtype in TOLERANCES:
            kind = str(dtype).removeprefix("torch.")
            try:
                problem = _try(name, dtype, device, backend)
            except Exception as error:  # whatever a broken installation raises is the finding
                reason = str(error).strip().splitlines() or ["without a message"]
                problem = f"raised {type(error).__name__}: {reason[-1]}"
            yield Verdict(name, kind, problem)


def _try(name: str, dtype: torch.dtype, device: torch.device, backend: str) -> str:
    tensors, rest = CASES[name](device)
    inputs = tuple(t.to(dtype) for t in tensors)
    reference = getattr(import_module(f"litellama.kernels.{name}"), f"{name}_reference")
    expected = _as_tuple(reference(*(t.double() for t in inputs), *rest))
    with kernels.use_backend(backend):
        got = _as_tuple(getattr(kernels, name)(*inputs, *rest))
    for result, right in zip(got, expected, strict=True):
        kind = dtype if right.is_floating_point() else right.dtype
        if result.shape != right.shape or result.dtype != kind:
            return f"returned {result.dtype} {tuple(result.shape)}, not {kind} {tuple(right.shape)}"
        if not result.any():
            return "returned all zeros"
        if not result.isfinite().all():
            return "returned NaN or infinity"
        if not right.is_floating_point():
            if not torch.equal(result, right):
                return f"returned {result.tolist()}, not {right.tolist()}"
            continue
        error = float(((result.double() - right).abs() / (1 + right.abs())).max())
        if error > TOLERANCES[dtype]:
            return f"is wrong by {error:.2g}, where {TOLERANCES[dtype]:.2g} is allowed"
    return ""


def _as_tuple(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
