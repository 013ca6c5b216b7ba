"""RMSNorm over the last axis: out = x / sqrt(mean(x^2) + eps) * weight.

Shapes: ``x`` is [..., N] (a hidden state [tokens, hidden], or heads [tokens, heads, head_dim]),
``weight`` is [N]; the result has the shape and dtype of ``x``, and the mean is float32.  Bytes:
read x, write out, 2 N * element_size a row; the weight is small and stays in cache.  A program
holds [ROWS, BLOCK] elements: one row that is long, or several that are short.  Source: Zhang and
Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.  Lesson 03 builds this
file.
"""

import torch
import torch.nn.functional as F

from litellama.kernels.backend import (
    check_tensors,
    launch,
    next_power_of_2,
    require,
    tl,
    triton,
    uses_triton,
    warps_for,
)

# A row is held in registers by one program; Triton's largest block for that is 2^16 elements.
MAX_ROW = 65536


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """What the kernel must compute, in plain torch."""
    # torch's own function: it, too, keeps the mean in float32 for the half precisions
    return F.rms_norm(x, weight.shape, weight, eps)


@triton.jit
def rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, x_token_stride, x_head_stride, M, N, eps,
    HEADS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (rows < M) & (columns < N)
    x_rows = x_ptr + rows // HEADS * x_token_stride + rows % HEADS * x_head_stride
    x = tl.load(x_rows + columns, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)
    inverse_rms = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / N + eps)
    tl.store(out_ptr + rows * N + columns, x * inverse_rms * weight, mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """RMSNorm of a [..., N] tensor over its last axis, scaled by ``weight`` [N].

    Same shape and dtype as ``x``.  Rows may be strided, also heads [T, H, N] of a wider matrix.
    """
    if not uses_triton(x):
        return rms_norm_reference(x, weight, eps)  # torch checks the shapes itself
    check_row(x, weight)
    N = x.shape[-1]
    # The heads of q are a slice of the matrix that holds k and v as well: rows of two strides.
    strided = x.ndim == 3 and x.stride(-1) == 1 and not x.is_contiguous()
    heads = x if strided else as_rows(x)[:, None]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    M, HEADS, BLOCK = heads.shape[0] * heads.shape[1], heads.shape[1], next_power_of_2(N)
    ROWS = rows_for(BLOCK)
    launch(
        rms_norm_kernel, (triton.cdiv(M, ROWS),),
        heads, weight.contiguous(), out, heads.stride(0), heads.stride(1), M, N, eps,
        HEADS=HEADS, ROWS=ROWS, BLOCK=BLOCK, num_warps=warps_for(ROWS * BLOCK),
    )  # fmt: skip
    return out


def rows_for(BLOCK: int) -> int:
    """Rows that one program normalises: one hidden state, or the heads that make 4096 elements."""
    # A head is too little work to start a program for: on an H100, one 128-element bfloat16 row a
    # program moved 846 GB/s, where a copy moves 2,900.
    return 4096 // BLOCK if BLOCK <= 256 else 1


def check_row(x: torch.Tensor, weight: torch.Tensor) -> None:
    """Refuse a weight that does not fit the last axis of ``x``, or a row too long for one block."""
    check_tensors(x=x, weight=weight)
    require(
        weight.ndim == 1 and weight.shape == x.shape[-1:],
        lambda: (
            f"the weight must have the shape of x's last axis, got x {tuple(x.shape)} and weight "
            f"{tuple(weight.shape)}"
        ),
    )
    N = x.shape[-1]
    require(0 < N <= MAX_ROW, lambda: f"rows must have 1 to {MAX_ROW} elements, got {N}")


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """View [..., N] as [rows, N] with neighbouring columns; copies only where no view exists."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()
