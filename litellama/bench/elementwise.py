"""The kernels that memory limits, against torch, eager and compiled, and Liger-Kernel.

Bytes are those that the formula must move (see each kernel's file), so an implementation that moves
more shows a lower bandwidth.  Liger-Kernel (Hsu et al., 2024, arXiv:2410.10989) is measured where
the package ``liger-kernel`` is installed; it gets its inputs in the layout that it asks for.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from litellama import kernels
from litellama.bench.case import Case, Inputs, Peer, as_they_are, normal

Tensors = tuple[torch.Tensor, ...]
GROUP = "memory-bound"
EPS = 1e-6
HIDDEN, INTERMEDIATE, VOCABULARY = 4096, 14336, 128256  # Llama-3 8B
HEAD_DIM = 128
TOKENS = (16, 256, 16384)
LIGER = "Liger-Kernel"


@dataclass(frozen=True)
class Elementwise:
    """One kernel: how to make its inputs, and the ways to compute it.

    make(tokens, width, device): inputs in float32; elements(inputs): elements read and written.
    torch: the best that plain torch offers for the same result, also what torch.compile is given.
    sizes: (tokens, width) of each case.  liger: Liger-Kernel's call, and what it is given.
    """

    name: str
    make: Callable[..., Tensors]
    ours: Callable[..., Any]
    torch: Callable[..., Any]
    elements: Callable[[Tensors], int]
    sizes: tuple[tuple[int, int], ...]
    liger: Callable[..., Any] | None = None
    liger_inputs: Callable[..., Inputs] = as_they_are

    def peers(self) -> tuple[Peer, ...]:
        """litellama, torch eager, torch.compile, and Liger-Kernel where it has the operation."""
        peers = [
            Peer("litellama", self.ours),
            Peer("torch eager", self.torch),
            Peer("torch.compile", self.torch, compile={}),
        ]
        if self.liger and has_liger():
            peers.append(Peer(LIGER, self.liger, self.liger_inputs))
        return tuple(peers)

    def cases(self) -> Iterator[Case]:
        """One case for each size."""
        for tokens, width in self.sizes:
            shape = self.make(1, width)[0].shape[1:]
            yield Case(
                GROUP, self.name, "×".join(map(str, (tokens, *shape))),
                lambda device, size=(tokens, width): self.make(*size, device),  # type: ignore[misc]
                self.elements, self.peers(),
            )  # fmt: skip


def has_liger() -> bool:
    """Whether Liger-Kernel is installed."""
    return importlib.util.find_spec("liger_kernel") is not None


def _liger(operation: str) -> Callable[..., Any]:
    """Liger-Kernel's ``operation``, imported when it is first called."""

    def call(*inputs: Any) -> Any:
        with torch.no_grad():
            return getattr(importlib.import_module("liger_kernel.ops"), operation).apply(*inputs)

    return call


def _matrices(count: int, weight: bool = False) -> Callable[..., Tensors]:
    def make(tokens: int, width: int, device: torch.device | str = "cpu") -> Tensors:
        inputs = normal(device, *[(tokens, width)] * count)
        return (*inputs, torch.linspace(0.5, 1.5, width, device=device)) if weight else inputs

    return make


def _rope_inputs(tokens: int, width: int, device: torch.device | str = "cpu") -> Tensors:
    heads = width // HEAD_DIM
    q, k = normal(device, (tokens, heads, HEAD_DIM), (tokens, max(heads // 4, 1), HEAD_DIM))
    pairs = torch.arange(HEAD_DIM // 2, device=device)
    angle = torch.arange(tokens, device=device)[:, None] * 500000.0 ** (-pairs / len(pairs))
    return q, k, angle.cos(), angle.sin()


def _torch_skip_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Tensors:
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, EPS), total


def torch_rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Tensors:
    cos, sin = (torch.cat([table, table], dim=-1)[:, None] for table in (cos, sin))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    return rotate(q), rotate(k)


def _liger_rope_inputs(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> Inputs:
    """[1, heads, tokens, D] as views of copies, because it rotates in place, and whole tables."""
    q, k = (x.clone()[None].transpose(1, 2) for x in (q, k))
    return (q, k, *(torch.cat([table, table], dim=-1)[None] for table in (cos, sin)))


def _liger_rope(*inputs: Any) -> Tensors:
    q, k = _liger("LigerRopeFunction")(*inputs)
    return q.transpose(1, 2), k.transpose(1, 2)


def torch_swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _sizes(width: int, *more: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return (*((tokens, width) for tokens in TOKENS), *more)


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Elementwise(
            "mul", _matrices(2), kernels.mul, torch.mul, lambda t: 3 * t[0].numel(), _sizes(HIDDEN)
        ),
        Elementwise(
            "softmax", _matrices(1), kernels.softmax, lambda x: torch.softmax(x, dim=-1),
            lambda t: 2 * t[0].numel(), _sizes(HIDDEN, (1024, VOCABULARY)),
            _liger("LigerSoftmaxFunction"),
        ),
        Elementwise(
            "rms_norm", _matrices(1, weight=True),
            lambda x, weight: kernels.rms_norm(x, weight, EPS),
            lambda x, weight: F.rms_norm(x, weight.shape, weight, EPS),
            lambda t: 2 * t[0].numel() + t[1].numel(),
            # the last is the norm of each head: 16,384 tokens of 32 heads
            _sizes(HIDDEN, (16384 * 32, HEAD_DIM)),
            _liger("LigerRMSNormFunction"), lambda x, weight: (x, weight, EPS),
        ),
        Elementwise(
            "skip_rms_norm", _matrices(2, weight=True),
            lambda x, residual, weight: kernels.skip_rms_norm(x, residual, weight, EPS),
            _torch_skip_rms_norm, lambda t: 4 * t[0].numel() + t[2].numel(), _sizes(HIDDEN),
            _liger("LigerFusedAddRMSNormFunction"),
            lambda x, residual, weight: (x, residual, weight, EPS),
        ),
        Elementwise(
            "rope", _rope_inputs, kernels.rope, torch_rope,
            lambda t: 2 * (t[0].numel() + t[1].numel()) + t[2].numel() + t[3].numel(),
            _sizes(HIDDEN), _liger_rope, _liger_rope_inputs,
        ),
        Elementwise(
            "swiglu", _matrices(1), kernels.swiglu, torch_swiglu,
            lambda t: t[0].numel() * 3 // 2, _sizes(2 * INTERMEDIATE),
            _liger("LigerFusedGateUpSiLUMulFunction"),
        ),
    )
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Every kernel at every size."""
    for kernel in KERNELS.values():
        yield from kernel.cases()
