"""The residual add and the RMSNorm after it, fused: s = x + residual; out = rms_norm(s) * weight.

Shapes: ``x`` and ``residual`` are [..., N], ``weight`` is [N]; returns ``(out, s)``, both with the
shape and dtype of ``x``.  Bytes: read x and residual, write out and s, 4 N * element_size a row;
as two kernels (add, then norm) it is 5, because s is written and read again.  Every decoder layer
does this twice.  The sum is rounded to the dtype before the norm sees it, so that the fused
and the unfused version agree.  Sources: Zhang and Sennrich, "Root Mean Square Layer
Normalization", 2019, arXiv:1910.07467; He et al., "Deep Residual Learning for Image Recognition",
2015, arXiv:1512.03385 (the residual).  Lesson 03 builds this file.
"""

import torch

from litellama.kernels.backend import (
    launch,
    next_power_of_2,
    require,
    tl,
    triton,
    uses_triton,
    warps_for,
)
from litellama.kernels.rms_norm import as_rows, check_row, rms_norm_reference


def skip_rms_norm_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel must compute, in plain torch."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


@triton.jit
def skip_rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, total_ptr,
    x_row_stride, residual_row_stride, N, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < N
    x = tl.load(x_ptr + row * x_row_stride + columns, mask=inside, other=0.0)
    residual = tl.load(residual_ptr + row * residual_row_stride + columns, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    total = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
    tl.store(total_ptr + row * N + columns, total, mask=inside)
    total = total.to(tl.float32)
    inverse_rms = tl.rsqrt(tl.sum(total * total, axis=0) / N + eps)
    tl.store(out_ptr + row * N + columns, total * inverse_rms * weight, mask=inside)


def skip_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add ``residual`` to ``x``, both [..., N]; return ``(RMSNorm of the sum, the sum)``."""
    require(
        residual.shape == x.shape and residual.dtype == x.dtype and residual.device == x.device,
        lambda: (
            "x and residual must have one shape, dtype and device, got "
            f"{tuple(x.shape)} {x.dtype} {x.device} and "
            f"{tuple(residual.shape)} {residual.dtype} {residual.device}"
        ),
    )
    if not uses_triton(x):
        return skip_rms_norm_reference(x, residual, weight, eps)
    check_row(x, weight)
    N = x.shape[-1]
    x_rows, residual_rows = as_rows(x), as_rows(residual)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty_like(out)
    BLOCK = next_power_of_2(N)
    launch(
        skip_rms_norm_kernel, (x_rows.shape[0],),
        x_rows, residual_rows, weight.contiguous(), out, total,
        x_rows.stride(0), residual_rows.stride(0), N, eps, BLOCK=BLOCK, num_warps=warps_for(BLOCK),
    )  # fmt: skip
    return out, total
