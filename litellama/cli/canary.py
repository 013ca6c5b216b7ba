"""A canary for the kernels: run each in Triton on small inputs and compare with float64 torch.

A mismatch of versions can make Triton's interpreter return zeros without an error, and bfloat16 has
been silently wrong there, so trusting an import is not enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

import torch

from litellama import kernels
from litellama.bench.elementwise import KERNELS as CASES

TOKENS, WIDTH = 3, 256  # three rows; two of rope's heads
# Largest error allowed, relative to 1 + |expected|: a few roundings of the result's dtype.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Verdict:
    """What one kernel did in one dtype; ``problem`` is empty when it was right."""

    kernel: str
    dtype: str
    problem: str


def run(device: torch.device, backend: str = "triton") -> Iterator[Verdict]:
    """Try every elementwise kernel and norm in float32, float16 and bfloat16."""
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
    inputs = tuple(t.to(device, dtype) for t in CASES[name].make(TOKENS, WIDTH))
    reference = getattr(import_module(f"litellama.kernels.{name}"), f"{name}_reference")
    expected = _as_tuple(reference(*(t.double() for t in inputs)))
    with kernels.use_backend(backend):
        got = _as_tuple(getattr(kernels, name)(*inputs))
    for result, right in zip(got, expected, strict=True):
        if result.shape != right.shape or result.dtype != dtype:
            return (
                f"returned {result.dtype} {tuple(result.shape)}, not {dtype} {tuple(right.shape)}"
            )
        if not result.any():
            return "returned all zeros"
        if not result.isfinite().all():
            return "returned NaN or infinity"
        error = float(((result.double() - right).abs() / (1 + right.abs())).max())
        if error > TOLERANCES[dtype]:
            return f"is wrong by {error:.2g}, where {TOLERANCES[dtype]:.2g} is allowed"
    return ""


def _as_tuple(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
