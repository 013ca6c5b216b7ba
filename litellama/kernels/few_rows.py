"""A linear layer for 2 to 32 tokens: y = x W^T + b, which still costs reading W, on tensor cores.

``matvec`` multiplies each weight with one token at a time; with twelve tokens that is arithmetic
enough to fall behind the memory.  Here a program owns a tile of rows of W and streams it, block by
block of K, through a pipeline of loads into tensor cores: y^T = W x^T, W the 64 rows that Hopper's
instruction wants, the tokens, padded to 16, its columns.  What comes after the layer is done on the
way, as in ``matvec``: SwiGLU, for which a tile is half gate and half up, and the residual add.  A
norm before it is not: the blocks of x would go through registers on their way to the tensor cores,
which cost more, on an H100, than a kernel for the norm.  The kernels overlap, as after ``matvec``,
but the next one may start when this one has left its loop, and not at once, since it needs shared
memory.  A step of Llama-3.2-3B with 12 rows took an H100 2,914 us with no kernel starting early,
3,084 us when each let the next start at once, and 2,897 us with this one late; in another run,
2,972 us like that, and 2,838 us with those of attention late as well.  While it waits, a program
has its first weights brought into the L2 cache: with longer texts, 3,202 and 3,175 us.

Shapes and bytes: as in ``matvec``, with K a multiple of 64, so that no block needs a mask along K,
and in half precision, since tensor cores would round float32.
Source: the transposed product of few rows is what cuBLAS does; Triton's matrix multiply tutorial.
Lesson 06 tells when it pays.
"""

import torch

from litellama.kernels.backend import (
    can_overlap,
    can_prefetch,
    launch,
    next_power_of_2,
    prefetch,
    shared_memory,
    stages,
    tl,
    triton,
    warps_for,
)

MAX_FEW_ROWS = 32


@triton.jit
def norm_row_kernel(
    x_ptr, norm_ptr, out_ptr, K, x_stride, eps, BLOCK_K: tl.constexpr, OVERLAP: tl.constexpr
):  # fmt: skip
    """``rms_norm`` of a hidden state, started before the kernel ahead has ended."""
    columns = tl.arange(0, BLOCK_K)
    norm = tl.load(norm_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(x_ptr + row * x_stride + columns, mask=columns < K, other=0.0).to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / K + eps) * norm
    tl.store(out_ptr + row * K + columns, normed, mask=columns < K)


@triton.jit(do_not_specialize=["T"])
def few_rows_kernel(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr,
    T, N, K, x_stride, weight_stride, residual_stride,
    HAS_BIAS: tl.constexpr, SWIGLU: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    OVERLAP: tl.constexpr, PREFETCH: tl.constexpr,
):  # fmt: skip
    OUTPUTS: tl.constexpr = BLOCK_N // 2 if SWIGLU else BLOCK_N
    # Of a tile for SwiGLU, the second half are the rows of up: N further down than those of gate.
    local = tl.arange(0, BLOCK_N)
    outputs = tl.program_id(0) * OUTPUTS + local % OUTPUTS
    rows = (tl.minimum(outputs, N - 1) + local // OUTPUTS * N)[:, None]
    tokens, columns = tl.arange(0, BLOCK_T)[None, :], tl.arange(0, BLOCK_K)
    weight_ptrs = weight_ptr + rows.to(tl.int64) * weight_stride + columns[None, :]
    x_ptrs = x_ptr + tokens * x_stride + columns[:, None]
    product = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    if PREFETCH > 0:  # weights of each row, which the memory brings while the kernel ahead ends
        pieces = tl.arange(0, 2)[None, :] * (PREFETCH // 2)
        prefetch(weight_ptr + rows.to(tl.int64) * weight_stride + pieces, PREFETCH // 2)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    for start in range(0, K, BLOCK_K):
        weights = tl.load(weight_ptrs + start, mask=(outputs < N)[:, None], other=0.0)
        x = tl.load(x_ptrs + start, mask=tokens < T, other=0.0)
        product = tl.dot(weights, x, product)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    if HAS_BIAS:
        bias = tl.load(bias_ptr + rows, mask=(outputs < N)[:, None], other=0.0)
        product += bias.to(tl.float32)
    if SWIGLU:
        gate, up = product.reshape([2, OUTPUTS, BLOCK_T]).permute(1, 2, 0).split()
        product = gate * tl.sigmoid(gate) * up
        outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = (outputs < N)[:, None] & (tokens < T)
    if HAS_RESIDUAL:
        residual_ptrs = residual_ptr + tokens * residual_stride + outputs[:, None]
        product += tl.load(residual_ptrs, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + tokens * N + outputs[:, None], product, mask=inside)


def fits(x: torch.Tensor) -> bool:
    """Whether ``few_rows`` takes x [T, K], and is meant for it."""
    T, K = x.shape
    return 1 < T <= MAX_FEW_ROWS and K > 0 and K % 64 == 0 and x.dtype != torch.float32


def few_rows(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: torch.Tensor | None,
    eps: float,
    swiglu: bool,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """x W^T + b for x [T, K] that ``fits``, with neighbours as ``matvec`` says, which checks them.

    x, weight and residual have a dense last axis; bias and norm are dense.
    """
    (T, K), N = x.shape, weight.shape[0] // (2 if swiglu else 1)
    if norm is not None:
        normed, BLOCK_K = torch.empty(T, K, dtype=x.dtype, device=x.device), next_power_of_2(K)
        launch(
            norm_row_kernel, (T,), x, norm, normed, K, x.stride(0), eps,
            BLOCK_K=BLOCK_K, OVERLAP=can_overlap(x.device), num_warps=warps_for(BLOCK_K),
        )  # fmt: skip
        x = normed
    out = torch.empty(T, N, dtype=x.dtype, device=x.device)
    BLOCK_T = max(next_power_of_2(T), 16)
    BLOCK_N, BLOCK_K = choose_tile(N, K, T, swiglu)
    # Up to five loads of 16 KiB of weights on their way, as many as there is room for.
    room = shared_memory(x.device) // ((BLOCK_N + BLOCK_T) * BLOCK_K * x.element_size())
    # Half a KiB of each of 64 rows; narrow tiles, whose programs are few, were slower with it.
    ahead = min(K, 256) if BLOCK_N == 64 and can_prefetch(weight) else 0
    launch(
        few_rows_kernel, (triton.cdiv(N, BLOCK_N // 2 if swiglu else BLOCK_N),),
        x, weight, bias, residual, out, T, N, K, x.stride(0), weight.stride(0),
        0 if residual is None else residual.stride(0),
        HAS_BIAS=bias is not None, SWIGLU=swiglu, HAS_RESIDUAL=residual is not None,
        BLOCK_T=BLOCK_T, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        OVERLAP=can_overlap(x.device), PREFETCH=ahead,
        num_warps=4, num_stages=stages(min(5, room + 1)),
    )  # fmt: skip
    return out


def choose_tile(N: int, K: int, T: int, swiglu: bool) -> tuple[int, int]:
    """(BLOCK_N, BLOCK_K): 16 KiB of weights in half precision, in 64 rows where that fills the GPU.

    Of fewer rows there are more programs.  On an H100 that took the layer of Llama-3.2-1B with
    2,048 outputs from 8,192 inputs, for 8 tokens, from 17.8 to 14.8 us (cuBLAS: 16.3), and that of
    3B with 3,072 outputs from 21.5 to 20.6 us (22.7); the other layers are quickest with 64.
    """
    if N <= 2048 and K % 512 == 0 and not swiglu:
        return 16, 512
    if N <= 3072 and K % 256 == 0 and K > 2048 and T <= 16 and not swiglu:
        return 32, 256
    return 64, 128 if K % 128 == 0 else 64
