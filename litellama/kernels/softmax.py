"""Softmax over the last axis: out[i] = exp(x[i] - max(x)) / sum_j exp(x[j] - max(x)).

Shapes: ``x`` is [..., N] for any N; the result has its shape and dtype, and the sums are float32.
Bytes: a row that fits in one block is read once and written once, 2 N * element_size; a longer row
is read twice (once for its maximum and sum, found together "online", once to write, then partly
from the cache), so up to 3.
Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
arXiv:1805.02867.  Lesson 02 builds this file.
"""

import torch

from litellama.kernels.backend import (
    check_tensors,
    launch,
    most_warps,
    next_power_of_2,
    require,
    tl,
    triton,
    uses_triton,
    warps_for,
)

# The longest row that one program keeps in registers; a longer one is read in blocks of this.
MAX_BLOCK = 16384


def softmax_reference(x: torch.Tensor) -> torch.Tensor:
    """What the kernel must compute, in plain torch."""
    return torch.softmax(x, dim=-1)


@triton.jit
def softmax_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * N
    columns = tl.arange(0, BLOCK)
    inside = columns < N
    x = tl.load(x_ptr + row + columns, mask=inside, other=-float("inf")).to(tl.float32)
    exponentials = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + row + columns, exponentials / tl.sum(exponentials, axis=0), mask=inside)


@triton.jit
def softmax_online_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * N
    columns = tl.arange(0, BLOCK)
    # Each lane keeps the maximum of what it has seen, and the sum of exponentials under it.
    maximum = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, N, BLOCK):
        inside = start + columns < N
        x = tl.load(x_ptr + row + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        new_maximum = tl.maximum(maximum, x)
        # A lane that has seen only -inf would compute inf - inf; its sum is zero either way.
        shift = tl.where(new_maximum == -float("inf"), 0.0, new_maximum)
        total = total * tl.exp(maximum - shift) + tl.exp(x - shift)
        maximum = new_maximum
    row_maximum = tl.max(maximum, axis=0)
    row_total = tl.sum(total * tl.exp(maximum - row_maximum), axis=0)
    # Back from the end: what was read last is still in the cache.  The results, which nobody here
    # reads again, are to leave it first.
    for back in range(0, N, BLOCK):
        start = (N - 1) // BLOCK * BLOCK - back
        inside = start + columns < N
        x = tl.load(x_ptr + row + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        y = tl.exp(x - row_maximum) / row_total
        tl.store(out_ptr + row + start + columns, y, mask=inside, eviction_policy="evict_first")


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Softmax of a [..., N] tensor over its last axis; same shape and dtype.

    A row that is all -inf has no softmax: it comes out as NaN, as in torch.
    """
    require(x.ndim > 0, lambda: "softmax needs at least one axis, got a tensor with none")
    if not uses_triton(x):
        return softmax_reference(x)
    check_tensors(x=x)
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    N = x.shape[-1]
    kernel = softmax_kernel if N <= MAX_BLOCK else softmax_online_kernel
    BLOCK = min(next_power_of_2(N), MAX_BLOCK)
    # A long row by as many as can be, so that more of it is on its way at once.
    warps = warps_for(BLOCK) if N <= MAX_BLOCK else most_warps()
    launch(kernel, (x.numel() // N,), x, out, N, BLOCK=BLOCK, num_warps=warps)
    return out
