"""What a decoder does between its q, k, v layer and attention, in one launch.

For each token: RMSNorm of each head of q and k where the model has it (``rms_norm``), rotation of q
and k (``rope``), and k and v stored in the paged cache (``write_kv``).  Each is a pass over a few
thousand numbers of a token, and starting a kernel takes longer than that; nor need k go to memory
and back between them.  For one token, one launch in place of two took an H100's step of
Llama-3.2-1B from 1,020 to 998 us, and in place of four that of Qwen3-0.6B from 829 to 723 us.

Shapes: ``q`` [T, Hq, D], ``k`` and ``v`` [T, Hkv, D], ``cos`` and ``sin`` [T, R/2] or [T, D], the
caches [num_blocks, block_size, Hkv, D], ``slots`` [T], norm weights [D]; the result is q
[T, Hq, D].  Bytes: q, k and v are read and written once, 2 T (Hq + 2 Hkv) D * element_size.
Sources: those of the three files.  Lesson 11 uses it, lesson 12 explains this file.
"""

import torch

from litellama import kernels
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
from litellama.kernels.few_rows import MAX_FEW_ROWS
from litellama.kernels.rope import check_shapes, rotated_half
from litellama.kernels.write_kv import check_cache


def rope_write_kv_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """What the kernel must compute: its parts, one after the other, each in a launch of its own."""
    # Taken from the package by name, so that a lesson can put a reader's in the place of each.
    if q_norm is not None and k_norm is not None:
        q, k = kernels.rms_norm(q, q_norm, eps), kernels.rms_norm(k, k_norm, eps)
    q, k = kernels.rope(q, k, cos, sin)
    kernels.write_kv(k, v, k_cache, v_cache, slots)
    return q


@triton.jit
def norm_rotate_store(
    x_ptr, out_ptr, cos, sin, norm_ptr, eps, head_stride,
    H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """H heads of one token, in three tiles: both halves of the pairs, and what is not turned."""
    heads = tl.arange(0, BLOCK_H)[:, None].to(tl.int64)  # a head's stride can be long as well
    x_rows, out_rows = x_ptr + heads * head_stride, out_ptr + heads * D
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    rest = 2 * HALF + tl.arange(0, BLOCK_REST)[None, :]
    inside, inside_rest = (heads < H) & (pairs < HALF), (heads < H) & (rest < D)
    first = tl.load(x_rows + pairs, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_rows + HALF + pairs, mask=inside, other=0.0).to(tl.float32)
    third = tl.load(x_rows + rest, mask=inside_rest, other=0.0).to(tl.float32)
    if NORM:
        squares = tl.sum(first * first + second * second, axis=1, keep_dims=True)
        squares += tl.sum(third * third, axis=1, keep_dims=True)
        scale = tl.rsqrt(squares / D + eps)
        first *= scale * tl.load(norm_ptr + pairs, mask=pairs < HALF, other=0.0).to(tl.float32)
        norm_second = tl.load(norm_ptr + HALF + pairs, mask=pairs < HALF, other=0.0)
        second *= scale * norm_second.to(tl.float32)
        third *= scale * tl.load(norm_ptr + rest, mask=rest < D, other=0.0).to(tl.float32)
    tl.store(out_rows + pairs, first * cos - second * sin, mask=inside)
    tl.store(out_rows + HALF + pairs, second * cos + first * sin, mask=inside)
    tl.store(out_rows + rest, third, mask=inside_rest)


@triton.jit
def rope_write_kv_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, q_norm_ptr, k_norm_ptr,
    q_out_ptr, k_cache_ptr, v_cache_ptr, slots_ptr, eps,
    q_token_stride, q_head_stride, k_token_stride, k_head_stride, v_token_stride, v_head_stride,
    cos_stride, sin_stride,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
    BLOCK_HQ: tl.constexpr, BLOCK_HKV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,
    OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:  # attention may start: it has keys to fetch before it waits
        tl.extra.cuda.gdc_launch_dependents()
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    cos = tl.load(cos_ptr + token * cos_stride + pairs, mask=pairs < HALF, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * sin_stride + pairs, mask=pairs < HALF, other=0.0).to(tl.float32)
    norm_rotate_store(
        q_ptr + token * q_token_stride, q_out_ptr + token * (HQ * D), cos, sin, q_norm_ptr, eps,
        q_head_stride, HQ, D, HALF, NORM, BLOCK_HQ, BLOCK_HALF, BLOCK_REST,
    )  # fmt: skip
    if OVERLAP and not EARLY:  # attention waits for what is stored below as well
        tl.extra.cuda.gdc_launch_dependents()
    if slot >= 0:
        norm_rotate_store(
            k_ptr + token * k_token_stride, k_cache_ptr + slot * (HKV * D), cos, sin, k_norm_ptr,
            eps, k_head_stride, HKV, D, HALF, NORM, BLOCK_HKV, BLOCK_HALF, BLOCK_REST,
        )  # fmt: skip
        heads = tl.arange(0, BLOCK_HKV)[:, None].to(tl.int64)
        columns = tl.arange(0, BLOCK_D)[None, :]
        inside = (heads < HKV) & (columns < D)
        v = tl.load(v_ptr + token * v_token_stride + heads * v_head_stride + columns, mask=inside)
        tl.store(v_cache_ptr + slot * (HKV * D) + heads * D + columns, v, mask=inside)


def rope_write_kv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Rotate ``q`` [T, Hq, D] and ``k`` [T, Hkv, D]; return q, and store k and ``v`` in the cache.

    q_norm, k_norm: weights [D], both or none, by which each head is RMS-normed before, with
    ``eps``.  The other arguments and their errors are those of ``rope`` and ``write_kv``.
    """
    norms = {n: x for n, x in (("q_norm", q_norm), ("k_norm", k_norm)) if x is not None}
    require(
        len(norms) != 1 and all(x.shape == q.shape[-1:] for x in norms.values()),
        lambda: (
            f"rope_write_kv needs q_norm and k_norm [{q.shape[-1]}], or none of them; got "
            + ", ".join(f"{name} {tuple(x.shape)}" for name, x in norms.items())
        ),
    )
    if not uses_triton(q):
        return rope_write_kv_reference(
            q, k, v, cos, sin, k_cache, v_cache, slots, q_norm=q_norm, k_norm=k_norm, eps=eps
        )
    check_tensors(q=q, k=k, v=v, cos=cos, sin=sin, k_cache=k_cache, v_cache=v_cache, **norms)
    check_shapes(q, k, cos, sin)
    check_cache(k, v, k_cache, v_cache, slots)
    q, k, v, cos, sin = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, cos, sin))
    q_norm, k_norm = (None if x is None else x.contiguous() for x in (q_norm, k_norm))
    (T, HQ, D), HKV, HALF = q.shape, k.shape[1], rotated_half(q, cos)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    overlap = T <= MAX_FEW_ROWS and can_overlap(q.device)
    launch(
        rope_write_kv_kernel, (T,),
        q, k, v, cos, sin, q_norm, k_norm, out, k_cache, v_cache, slots.contiguous(), eps,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        cos.stride(0), sin.stride(0),
        HQ=HQ, HKV=HKV, D=D, HALF=HALF, NORM=q_norm is not None,
        BLOCK_HQ=next_power_of_2(HQ), BLOCK_HKV=next_power_of_2(HKV), BLOCK_D=next_power_of_2(D),
        BLOCK_HALF=next_power_of_2(HALF), BLOCK_REST=next_power_of_2(D - 2 * HALF),
        # One row's attention does not fetch ahead: begun early, it took a step of Llama-3.2-1B on
        # an H100 from 982 to 1,013 us.
        OVERLAP=overlap, EARLY=overlap and T > 1, num_warps=8,
    )  # fmt: skip
    return out
