"""The linear layers of decoding at batch 1: one row times a matrix, limited by reading the matrix.

Beside cuBLAS (``F.linear``) stands what torch.compile makes of the same line when it may tune its
kernels, as gpt-fast lets it: a Triton kernel instead of a call of cuBLAS (for one layer).  The last
cases do on the way what comes before and after a layer, where cuBLAS needs torch's operations
around it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from litellama import kernels
from litellama.bench.case import Case, Peer, normal
from litellama.bench.elementwise import torch_swiglu

EPS = 1e-6
# torch.compile tunes each shape for long: these stand for the others.
COMPILED = ("Llama-3.2-1B gate_up", "norm + gate_up")
# name -> layer -> (inputs K, outputs N): weights are [N, K]
LAYERS = {
    "Llama-3.2-1B": {
        "qkv": (2048, 3072),
        "o": (2048, 2048),
        "gate_up": (2048, 16384),
        "down": (8192, 2048),
        "lm_head": (2048, 128256),
    },
    "Llama-3.2-3B": {
        "qkv": (3072, 5120),
        "o": (3072, 3072),
        "gate_up": (3072, 16384),
        "down": (8192, 3072),
        "lm_head": (3072, 128256),
    },
}


def cases() -> Iterator[Case]:
    """Every linear layer of the two models, then some of the smaller with their neighbours."""
    for model, layers in LAYERS.items():
        for layer, (K, N) in layers.items():
            label = f"{model} {layer} {N}×{K}"
            yield matvec_case(label, K, N, (), kernels.matvec, F.linear)
    yield from fused_cases(LAYERS["Llama-3.2-1B"])


def fused_cases(layers: dict[str, tuple[int, int]]) -> Iterator[Case]:
    """A norm before, SwiGLU after, or a residual added, in the same kernel."""

    def normed(x: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return kernels.matvec(x, weight, norm=norm, eps=EPS)

    def torch_normed(x: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return F.linear(F.rms_norm(x, norm.shape, norm, EPS), weight)

    def gated(x: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return kernels.matvec(x, weight, norm=norm, eps=EPS, swiglu=True)

    def torch_gated(x: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return torch_swiglu(torch_normed(x, weight, norm))

    def added(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return kernels.matvec(x, weight, residual=residual)

    def torch_added(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight) + residual

    for name, layer, ours, theirs in (
        ("norm + qkv", "qkv", normed, torch_normed),
        ("norm + gate_up + swiglu", "gate_up", gated, torch_gated),
        ("down + residual", "down", added, torch_added),
    ):
        K, N = layers[layer]
        more = (1, N) if layer == "down" else (K,)
        yield matvec_case(f"{name} {N}×{K}", K, N, (more,), ours, theirs)


def matvec_case(
    label: str,
    K: int,
    N: int,
    more: tuple[tuple[int, ...], ...],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
) -> Case:
    """x [1, K] times the transposed weight [N, K]; ``more``: shapes of what else is given."""

    def make(device: torch.device) -> tuple[torch.Tensor, ...]:
        x, weight, *others = normal(device, (1, K), (N, K), *more)
        return x, weight * K**-0.5, *others  # results of the size of x

    compiled = Peer("torch.compile", theirs, compile={"coordinate_descent_tuning": True})
    return Case(
        group="linear, one row",
        kernel="matvec",
        label=label,
        make=make,
        elements=lambda t: t[1].numel(),
        peers=(
            Peer("litellama", ours),
            Peer("cuBLAS", theirs),
            *([compiled] if label.startswith(COMPILED) else []),
        ),
        writes=False,
    )
