"""Every kernel of the package with its reference, and with inputs of any size and dtype.

What holds for all of them (layouts, refusals, random sweeps, the memory checker) is tested once,
in test_every_kernel.py, from this table.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from litellama import kernels
from litellama.kernels import AttentionBatch
from tests.kernels import references
from tests.kernels.paged import make_step

Inputs = dict[str, Any]  # a kernel's arguments by name: tensors, and options such as ``eps``
GUARD = 64


@dataclass(frozen=True)
class Kernel:
    """A kernel, its reference, and how inputs for both are made.

    make(device, dtype, **sizes) gives the inputs; ``small`` is one choice of sizes, and ``choose``
    a random one.  Sizes for which a kernel must be compiled anew come from short lists.
    """

    run: Callable[..., Any]
    reference: Callable[..., Any]
    make: Callable[..., Inputs]
    small: dict[str, Any]
    choose: Callable[[random.Random], dict[str, Any]]
    cases: int = 25  # of one random sweep: fewer where each takes the compiler long


def normal(*shape: int, device: str, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Normally distributed values, the same for each device and each dtype but for rounding."""
    return (scale * torch.randn(shape, dtype=torch.float64)).to(device, dtype)


def columns(rng: random.Random) -> int:
    """The length of a row: any in one of a few ranges that end at a power of two."""
    most = rng.choice((64, 1024, 4096, 16384))
    n = rng.randint(most // 2 + 1, most)
    return rng.choice((n, n // 16 * 16))


def some_rows(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 3, rng.randint(4, 300)))


def make_two(device: str, dtype: torch.dtype, rows: int, N: int) -> Inputs:
    a, b = normal(2, rows, N, device=device, dtype=dtype)
    return {"a": a, "b": b}


def make_rows(device: str, dtype: torch.dtype, rows: int, N: int) -> Inputs:
    return {"x": normal(rows, N, device=device, dtype=dtype, scale=4.0)}


def make_norm(device: str, dtype: torch.dtype, rows: int, N: int) -> Inputs:
    weight = normal(N, device=device, dtype=dtype)
    return make_rows(device, dtype, rows, N) | {"weight": weight, "eps": 1e-5}


def make_skip(device: str, dtype: torch.dtype, rows: int, N: int) -> Inputs:
    residual = normal(rows, N, device=device, dtype=dtype)
    return {"residual": residual} | make_norm(device, dtype, rows, N)


def make_gate_up(device: str, dtype: torch.dtype, rows: int, N: int) -> Inputs:
    return {"gate_up": normal(rows, 2 * N, device=device, dtype=dtype, scale=3.0)}


def make_rope(
    device: str, dtype: torch.dtype, T: int, heads: tuple[int, int], D: int, R: int
) -> Inputs:
    """Tables of the angles of random positions, in float32 as the models make them."""
    angles = 1000 * torch.rand(T, R // 2, dtype=torch.float64)
    q, k = (normal(T, H, D, device=device, dtype=dtype) for H in heads)
    cos, sin = angles.cos().to(device).float(), angles.sin().to(device).float()
    return {"q": q, "k": k, "cos": cos, "sin": sin}


def make_cache_write(
    device: str, dtype: torch.dtype, T: int, heads: int, D: int, block_size: int
) -> Inputs:
    """T tokens for slots in any order, a few of them padding, and caches of NaN."""
    k, v = normal(2, T, heads, D, device=device, dtype=dtype)
    blocks = T // block_size + 3
    cache = torch.full((2, blocks, block_size, heads, D), torch.nan, device=device, dtype=dtype)
    slots = torch.randperm(blocks * block_size)[:T]
    slots[torch.rand(T) < 0.2] = -1
    return {"k": k, "v": v, "k_cache": cache[0], "v_cache": cache[1], "slots": slots.to(device)}


def make_attention_inputs(
    device: str,
    dtype: torch.dtype,
    T: int,
    heads: tuple[int, int],
    D: int,
    R: int,
    block_size: int,
    norms: bool,
) -> Inputs:
    rotated = make_rope(device, dtype, T, heads, D, R)
    stored = make_cache_write(device, dtype, T, heads[1], D, block_size)
    names = ("q_norm", "k_norm") if norms else ()
    weights = {name: normal(D, device=device, dtype=dtype) for name in names}
    return rotated | stored | weights | ({"eps": 1e-5} if norms else {})


def storing(kernel: Callable[..., torch.Tensor | None]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A kernel that writes to the caches, as a function: its result, if any, and copies of them.

    It must not touch what lies around the caches.
    """

    def run(
        k_cache: torch.Tensor, v_cache: torch.Tensor, **others: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        wholes = [F.pad(x.flatten(), (GUARD, GUARD), value=7.0) for x in (k_cache, v_cache)]
        copies = [whole[GUARD:-GUARD].view(k_cache.shape) for whole in wholes]
        out = kernel(k_cache=copies[0], v_cache=copies[1], **others)
        for whole in wholes:
            assert (whole[:GUARD] == 7.0).all()
            assert (whole[-GUARD:] == 7.0).all()
        return (*copies,) if out is None else (out, *copies)

    return run


written = storing(kernels.write_kv)


def make_paged(
    device: str, dtype: torch.dtype, lengths: list[tuple[int, int]], shape: tuple[int, ...]
) -> Inputs:
    """``lengths`` = (new tokens, keys) of each sequence; shape = (Hq, Hkv, D, block_size)."""
    step = make_step(lengths, *shape, device, dtype)
    return {
        "q": step.q,
        "k_cache": step.k_cache,
        "v_cache": step.v_cache,
        "query_starts": step.batch.query_starts,
        "seq_lens": step.batch.seq_lens,
        "block_table": step.batch.block_table,
        "longest": (step.batch.max_query_len, step.batch.max_seq_len),
    }


def make_dense(
    device: str,
    dtype: torch.dtype,
    B: int,
    heads: tuple[int, int],
    Tq: int,
    Tk: int,
    D: int,
    causal: bool,
) -> Inputs:
    q = normal(B, heads[0], Tq, D, device=device, dtype=dtype)
    k, v = normal(2, B, heads[1], Tk, D, device=device, dtype=dtype)
    return {"q": q, "k": k, "v": v, "causal": causal}


# What matvec can do on the way, in every combination.
EXTRAS = ("bias", "norm", "swiglu", "residual")


def make_linear(
    device: str, dtype: torch.dtype, T: int, N: int, K: int, extras: tuple[str, ...] = ()
) -> Inputs:
    """N outputs; with "swiglu" in ``extras`` the weight has twice as many rows."""
    rows = 2 * N if "swiglu" in extras else N
    shapes = {"bias": (rows,), "norm": (K,), "residual": (T, N)}
    shapes = {"x": (T, K), "weight": (rows, K)} | {k: s for k, s in shapes.items() if k in extras}
    inputs = {name: normal(*shape, device=device, dtype=dtype) for name, shape in shapes.items()}
    return inputs | ({"swiglu": True} if "swiglu" in extras else {})


def paged(kernel: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """An attention kernel as a function of tensors alone."""

    def run(
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        query_starts: torch.Tensor,
        seq_lens: torch.Tensor,
        block_table: torch.Tensor,
        longest: tuple[int, int],
    ) -> torch.Tensor:
        batch = AttentionBatch(
            query_starts=query_starts,
            seq_lens=seq_lens,
            block_table=block_table,
            slots=torch.zeros(len(q), dtype=torch.int64, device=block_table.device),
            block_size=k_cache.shape[1],
            max_query_len=longest[0],
            max_seq_len=longest[1],
        )
        return kernel(q, k_cache, v_cache, batch)

    return run


def paged_reference(longest: tuple[int, int], **tensors: torch.Tensor) -> torch.Tensor:
    """The reference looks for itself how long the sequences are."""
    return references.paged_attention(**tensors)


# (Hq, Hkv, D): groups of 1, 3, 4, 7 and 8, and every usual head_dim.
HEADS = (
    (9, 3, 64), (4, 4, 32), (4, 1, 40), (14, 2, 80), (3, 3, 96), (32, 8, 128), (8, 1, 256),
    (7, 1, 128), (8, 8, 64), (6, 2, 10),
)  # fmt: skip


def choose_steps(rng: random.Random, decode: bool) -> dict[str, Any]:
    most = rng.choice((3, 100, 1200))
    keys = [rng.randint(0, most) for _ in range(rng.choice((1, 2, 5)))] + [rng.randint(1, most)]
    if decode:
        lengths = [(1, m) for m in keys]
    else:
        lengths = [(rng.choice((min(m, 1), m, m // 2)), m) for m in keys]
    *heads, D = rng.choice(HEADS)
    return {"lengths": lengths, "shape": (*heads, D, rng.choice((1, 16)))}


def choose_heads(rng: random.Random) -> tuple[tuple[int, int], int]:
    *heads, D = rng.choice(HEADS)
    return (heads[0], heads[1]), D


def choose_rope(rng: random.Random) -> dict[str, Any]:
    heads, D = choose_heads(rng)
    return {"T": some_rows(rng), "heads": heads, "D": D, "R": D if D % 3 else D // 2}


def choose_cache_write(rng: random.Random) -> dict[str, Any]:
    (_, heads), D = choose_heads(rng)
    return {"T": some_rows(rng), "heads": heads, "D": D, "block_size": rng.choice((1, 3, 16))}


def choose_attention_inputs(rng: random.Random) -> dict[str, Any]:
    more = {"block_size": rng.choice((1, 3, 16)), "norms": rng.random() < 0.5}
    return choose_rope(rng) | more


def choose_rows(rng: random.Random) -> dict[str, Any]:
    return {"rows": some_rows(rng), "N": columns(rng)}


def choose_softmax(rng: random.Random) -> dict[str, Any]:
    """Some rows of more than one block, too."""
    if rng.random() < 0.8:
        return choose_rows(rng)
    return {"rows": rng.randint(1, 5), "N": rng.randint(16385, 262144)}


def choose_dense(rng: random.Random) -> dict[str, Any]:
    heads, D = choose_heads(rng)
    Tk = rng.randint(1, rng.choice((3, 100, 600)))
    sizes = {"B": rng.randint(0, 3), "heads": heads, "D": D, "Tk": Tk}
    return sizes | {"Tq": rng.choice((0, 1, Tk, Tk // 2)), "causal": rng.random() < 0.5}


def choose_linear(rng: random.Random) -> dict[str, Any]:
    N, K = (rng.choice((1, 7, 64, 576, 1536, 2048, rng.randint(2, 9000))) for _ in range(2))
    extras = tuple(extra for extra in EXTRAS if rng.random() < 0.5)
    return {"T": rng.randint(1, 16), "N": N, "K": K, "extras": extras}


KERNELS = {
    "mul": Kernel(kernels.mul, references.mul, make_two, {"rows": 5, "N": 37}, choose_rows),
    "softmax": Kernel(
        kernels.softmax, references.softmax, make_rows, {"rows": 5, "N": 37}, choose_softmax
    ),
    "rms_norm": Kernel(
        kernels.rms_norm, references.rms_norm, make_norm, {"rows": 5, "N": 37}, choose_rows
    ),
    "skip_rms_norm": Kernel(
        kernels.skip_rms_norm, references.skip_rms_norm, make_skip, {"rows": 5, "N": 37},
        choose_rows,
    ),
    "swiglu": Kernel(
        kernels.swiglu, references.swiglu, make_gate_up, {"rows": 5, "N": 37}, choose_rows
    ),
    "rope": Kernel(
        kernels.rope, references.rope, make_rope, {"T": 5, "heads": (3, 1), "D": 10, "R": 6},
        choose_rope,
    ),
    "write_kv": Kernel(
        written, references.write_kv, make_cache_write,
        {"T": 9, "heads": 3, "D": 10, "block_size": 4}, choose_cache_write,
    ),
    "rope_write_kv": Kernel(
        storing(kernels.rope_write_kv), references.rope_write_kv, make_attention_inputs,
        {"T": 5, "heads": (3, 1), "D": 10, "R": 6, "block_size": 4, "norms": True},
        choose_attention_inputs, cases=12,
    ),
    "flash_attention_varlen": Kernel(
        paged(kernels.flash_attention_varlen), paged_reference, make_paged,
        {"lengths": [(5, 9), (0, 0), (3, 3)], "shape": (6, 2, 10, 4)},
        lambda rng: choose_steps(rng, decode=False), cases=8,
    ),
    "flash_decoding": Kernel(
        paged(kernels.flash_decoding), paged_reference, make_paged,
        {"lengths": [(1, 150), (1, 0), (1, 3)], "shape": (6, 2, 10, 4)},
        lambda rng: choose_steps(rng, decode=True), cases=8,
    ),
    "flash_attention": Kernel(
        kernels.flash_attention, references.dense_attention, make_dense,
        {"B": 2, "heads": (6, 2), "Tq": 5, "Tk": 37, "D": 10, "causal": True},
        choose_dense, cases=8,
    ),
    "flash_attention_v1": Kernel(
        kernels.flash_attention_v1, references.dense_attention, make_dense,
        {"B": 2, "heads": (6, 2), "Tq": 5, "Tk": 37, "D": 10, "causal": True},
        choose_dense, cases=8,
    ),
    "matvec": Kernel(
        kernels.matvec, references.matvec, make_linear,
        {"T": 3, "N": 9, "K": 37, "extras": EXTRAS}, choose_linear, cases=12,
    ),
}  # fmt: skip
