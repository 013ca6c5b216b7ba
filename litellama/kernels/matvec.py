"""A linear layer for a few tokens: y = x W^T + b, which costs reading W.

A product of a matrix and a vector reads each weight for one multiply-add, so memory is the limit
and tensor cores cannot help.  A program owns a few rows of W and loads them whole, at once: the
more bytes are asked for before the first is used, the nearer to the memory's speed.  What comes
before and after a linear layer of a decoder can be done on the way, which saves its launch and a
trip through memory: RMSNorm of x, SwiGLU of the two halves of y, the residual add.

Shapes: ``x`` [T, K], ``weight`` [N, K], ``bias`` [N]; the result is [T, N], or [T, N / 2] after
SwiGLU.  Bytes: N K * element_size; x and y are small.  Source: the matrix-vector product of BLAS 2
(GEMV); the overlap of a kernel's start with the end of the one before, CUDA's programmatic
dependent launch.  Lesson 06 builds this file.
"""

import torch
import torch.nn.functional as F

from litellama.kernels.backend import (
    can_overlap,
    check_tensors,
    launch,
    next_power_of_2,
    require,
    tl,
    triton,
    uses_triton,
)
from litellama.kernels.few_rows import few_rows, fits
from litellama.kernels.rms_norm import rms_norm_reference
from litellama.kernels.swiglu import swiglu_reference

MAX_BLOCK = 32768  # the longest row of weights that 16 warps hold in registers


def matvec_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the kernel must compute, in plain torch."""
    if norm is not None:
        x = rms_norm_reference(x, norm, eps)
    y = F.linear(x, weight, bias)
    if swiglu:
        y = swiglu_reference(y)
    return y if residual is None else y + residual


@triton.jit
def matvec_kernel(
    x_ptr, weight_ptr, bias_ptr, norm_ptr, residual_ptr, out_ptr,
    T, N, K, x_stride, weight_stride, residual_stride, eps,
    HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr,
    SWIGLU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    inside = (rows < N)[:, None] & (columns < K)[None, :]
    ptrs = weight_ptr + rows.to(tl.int64)[:, None] * weight_stride + columns[None, :]
    # No kernel writes the weights: they may be loaded while the kernel before this one ends.
    weights = tl.load(ptrs, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    if SWIGLU:  # row i of up belongs to row i of gate, N rows further down
        up_ptrs = ptrs + tl.cast(N, tl.int64) * weight_stride
        ups = tl.load(up_ptrs, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    if HAS_NORM:
        norm = tl.load(norm_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    for token in range(T):
        x = tl.load(x_ptr + token * x_stride + columns, mask=columns < K, other=0.0).to(tl.float32)
        if HAS_NORM:
            x = x * tl.rsqrt(tl.sum(x * x, axis=0) / K + eps) * norm
        y = tl.sum(weights * x[None, :], axis=1)
        if HAS_BIAS:
            y += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
        if SWIGLU:
            up = tl.sum(ups * x[None, :], axis=1)
            if HAS_BIAS:
                up += tl.load(bias_ptr + N + rows, mask=rows < N, other=0.0).to(tl.float32)
            y = y * tl.sigmoid(y) * up
        if HAS_RESIDUAL:
            residual_row = residual_ptr + token * residual_stride
            y += tl.load(residual_row + rows, mask=rows < N, other=0.0).to(tl.float32)
        tl.store(out_ptr + token * N + rows, y, mask=rows < N)


def matvec(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """x W^T + b for x [T, K] of few tokens, weight [N, K] and bias [N]: [T, N].

    norm: a weight [K] by which x is RMS-normed first, with ``eps``.  swiglu: the rows of the weight
    are a gate and an up half, and the result is silu(gate) * up, [T, N / 2].  residual: like the
    result, added last.  Each further token costs arithmetic but no more reading: in half precision
    up to 32 share tensor cores (``few_rows``); many are the work of ``torch.nn.functional.linear``.
    """
    check_matvec(x, weight, bias, norm, swiglu, residual)
    if not uses_triton(x) or x.shape[1] > MAX_BLOCK:
        return matvec_reference(
            x, weight, bias, norm=norm, eps=eps, swiglu=swiglu, residual=residual
        )
    x, weight = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, weight))
    bias, norm = (None if t is None else t.contiguous() for t in (bias, norm))
    if residual is not None and residual.stride(-1) != 1:
        residual = residual.contiguous()
    if fits(x):
        return few_rows(x, weight, bias, norm, eps, swiglu, residual)
    (T, K), N = x.shape, weight.shape[0] // (2 if swiglu else 1)
    out = torch.empty(T, N, dtype=x.dtype, device=x.device)
    BLOCK_K = max(next_power_of_2(K), 32)
    # About 4096 weights a program.  A norm is done again in each, so there more rows share it.
    rows = 4096 if norm is None else 8192 if swiglu else 16384
    BLOCK_N = max(min(rows // BLOCK_K, 4), 1)
    launch(
        matvec_kernel, (triton.cdiv(N, BLOCK_N) if T else 0,),
        x, weight, bias, norm, residual, out, T, N, K, x.stride(0), weight.stride(0),
        0 if residual is None else residual.stride(0), eps,
        HAS_BIAS=bias is not None, HAS_NORM=norm is not None, SWIGLU=swiglu,
        HAS_RESIDUAL=residual is not None, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        OVERLAP=can_overlap(x.device), num_warps=min(max(BLOCK_N * BLOCK_K // 512, 1), 8),
    )  # fmt: skip
    return out


def check_matvec(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: torch.Tensor | None,
    swiglu: bool,
    residual: torch.Tensor | None,
) -> None:
    """Refuse shapes that do not fit together, with all of them in the message."""
    given = {"x": x, "weight": weight, "bias": bias, "norm": norm, "residual": residual}
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    if uses_triton(x):
        check_tensors(**tensors)
    (N, K) = weight.shape if weight.ndim == 2 else (-1, -1)
    require(
        x.ndim == 2
        and x.shape[1] == K
        and x.dtype == weight.dtype
        and (bias is None or bias.shape == (N,))
        and (norm is None or norm.shape == (K,))
        and (not swiglu or N % 2 == 0)
        and (residual is None or residual.shape == (x.shape[0], N // 2 if swiglu else N)),
        lambda: (
            "matvec needs x [T, K] and weight [N, K] of one dtype, bias [N], norm [K], N even for "
            "swiglu, and residual like the result; got "
            + ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors.items())
        ),
    )
