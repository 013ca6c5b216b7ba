"""Rotary position embedding of queries and keys, in one launch.

Each pair (x[i], x[i + R/2]) of a head is turned by the angle of its position and frequency:
out[i] = x[i] cos - x[i + R/2] sin and out[i + R/2] = x[i + R/2] cos + x[i] sin, i < R/2.
This is the half-split ("NeoX") layout of the Hugging Face checkpoints.  R is the rotated width; the
elements from R on pass through unchanged (partial rotation).

Shapes: ``q`` [T, Hq, D], ``k`` [T, Hkv, D], ``cos`` and ``sin`` [T, R/2], or [T, D] with the
halves repeated.  Bytes: read and write q and k once, 2 T (Hq + Hkv) D * element_size; one
token's cos and sin serve all its heads.  Source: Su et al., "RoFormer", 2021, arXiv:2104.09864.
Lesson 04 builds this file.
"""

import torch

from litellama.kernels.backend import (
    check_tensors,
    launch,
    next_power_of_2,
    require,
    tl,
    triton,
    uses_triton,
)


def rope_reference(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel must compute, in plain torch."""
    half = rotated_half(q, cos)
    cos, sin = cos[:, None, :half], sin[:, None, :half]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second, *rest = x.split(half, dim=-1)
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat((*turned, *rest), dim=-1).to(x.dtype)

    return rotate(q), rotate(k)


@triton.jit
def rotate_heads(
    x_ptr, out_ptr, cos, sin, token_stride, head_stride, token,
    H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """Rotate all H heads of one token: a [BLOCK_H, BLOCK_HALF] tile of each half."""
    heads = tl.arange(0, BLOCK_H)[:, None].to(tl.int64)  # a head's stride can be long as well
    x_rows = x_ptr + token * token_stride + heads * head_stride
    out_rows = out_ptr + token * (H * D) + heads * D
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (heads < H) & (pairs < HALF)
    first = tl.load(x_rows + pairs, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_rows + HALF + pairs, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_rows + pairs, first * cos - second * sin, mask=inside)
    tl.store(out_rows + HALF + pairs, second * cos + first * sin, mask=inside)
    if 2 * HALF < D:
        rest = 2 * HALF + tl.arange(0, BLOCK_REST)[None, :]
        inside = (heads < H) & (rest < D)
        tl.store(out_rows + rest, tl.load(x_rows + rest, mask=inside), mask=inside)


@triton.jit
def rope_kernel(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_out_ptr, k_out_ptr,
    q_token_stride, q_head_stride, k_token_stride, k_head_stride, cos_stride, sin_stride,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    BLOCK_HQ: tl.constexpr, BLOCK_HKV: tl.constexpr,
    BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    cos = tl.load(cos_ptr + token * cos_stride + pairs, mask=pairs < HALF, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * sin_stride + pairs, mask=pairs < HALF, other=0.0).to(tl.float32)
    rotate_heads(
        q_ptr, q_out_ptr, cos, sin, q_token_stride, q_head_stride, token,
        HQ, D, HALF, BLOCK_HQ, BLOCK_HALF, BLOCK_REST,
    )  # fmt: skip
    rotate_heads(
        k_ptr, k_out_ptr, cos, sin, k_token_stride, k_head_stride, token,
        HKV, D, HALF, BLOCK_HKV, BLOCK_HALF, BLOCK_REST,
    )  # fmt: skip


def rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate ``q`` [T, Hq, D] and ``k`` [T, Hkv, D] by their positions' angles; new tensors.

    cos, sin: [T, R/2] for a rotated width R <= D (usually R = D), or [T, D] with both halves
    equal.  q and k may be slices of one fused qkv matrix, as long as the last axis is dense.
    """
    check_shapes(q, k, cos, sin)
    if not uses_triton(q):
        return rope_reference(q, k, cos, sin)
    check_tensors(q=q, k=k, cos=cos, sin=sin)
    q, k, cos, sin = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, cos, sin))
    (T, HQ, D), HKV, HALF = q.shape, k.shape[1], rotated_half(q, cos)
    q_out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    k_out = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    launch(
        rope_kernel, (T,), q, k, cos, sin, q_out, k_out,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), cos.stride(0), sin.stride(0),
        HQ=HQ, HKV=HKV, D=D, HALF=HALF,
        BLOCK_HQ=next_power_of_2(HQ), BLOCK_HKV=next_power_of_2(HKV),
        BLOCK_HALF=next_power_of_2(HALF), BLOCK_REST=next_power_of_2(D - 2 * HALF),
        num_warps=8,  # on an H100 2 to 16% quicker than 4: more loads under way
    )  # fmt: skip
    return q_out, k_out


def rotated_half(q: torch.Tensor, cos: torch.Tensor) -> int:
    """R/2, from the width of the cos table: the table holds R/2 columns, or D repeated halves."""
    D, width = q.shape[-1], cos.shape[-1]
    return D // 2 if width == D else width


def check_shapes(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Refuse shapes that do not fit together, with all of them in the message."""
    T, D, width = q.shape[0], q.shape[-1], cos.shape[-1]
    require(
        q.ndim == k.ndim == 3
        and k.shape[::2] == (T, D)
        and cos.shape == sin.shape == (T, width)
        and D % 2 == 0
        and (0 < width <= D // 2 or width == D),
        lambda: (
            "rope needs q [T, Hq, D], k [T, Hkv, D], cos and sin [T, R/2] or [T, D], one T, "
            f"D even, R <= D; got q {tuple(q.shape)}, k {tuple(k.shape)}, "
            f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)}"
        ),
    )
