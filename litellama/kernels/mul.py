"""Elementwise multiply, the first kernel: out[i] = a[i] * b[i].

Shapes: ``a``, ``b`` and the result have one shape, any number of axes, float16, bfloat16 or
float32.  Bytes: read 2n, write n elements, so 3 n * element_size; one multiplication for every
three elements moved, so memory is the only cost.  Source: Tillet, Kung and Cox, "Triton: an
intermediate language and compiler for tiled neural network computations", 2019 (programs that own
a block each).  Lesson 01 builds this file.
"""

import torch

from litellama.kernels.backend import check_tensors, launch, require, tl, triton, uses_triton


def mul_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What the kernel must compute, in plain torch."""
    return a * b


@triton.jit
def mul_kernel(a_ptr, b_ptr, out_ptr, n, BLOCK: tl.constexpr):
    # int64, because tensors of more than 2^31 elements exist
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < n
    a = tl.load(a_ptr + offsets, mask=inside)
    b = tl.load(b_ptr + offsets, mask=inside)
    tl.store(out_ptr + offsets, a * b, mask=inside)


def mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Elementwise product of two tensors of the same shape, dtype and device."""
    require(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device,
        lambda: (
            "mul needs two tensors of one shape, dtype and device, got "
            f"{tuple(a.shape)} {a.dtype} {a.device} and {tuple(b.shape)} {b.dtype} {b.device}"
        ),
    )
    if not uses_triton(a):
        return mul_reference(a, b)
    check_tensors(a=a, b=b)
    a, b = a.contiguous(), b.contiguous()
    out = torch.empty_like(a)
    n, BLOCK = a.numel(), 1024
    launch(mul_kernel, (triton.cdiv(n, BLOCK),), a, b, out, n, BLOCK=BLOCK)
    return out
