"""Store new keys and values in the paged KV cache: k_cache.view(slots)[slots[t]] = k[t].

Shapes: ``k``, ``v`` [T, Hkv, D]; ``k_cache``, ``v_cache`` [num_blocks, block_size, Hkv, D];
``slots`` [T] int64, slot = block * block_size + offset.  A negative slot stores nothing (padding
in a CUDA graph).  Bytes: read and write k and v once, 4 T Hkv D * element_size.  Source: Kwon et
al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023, arXiv:2309.06180.
Lesson 10 builds this file.
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


def write_kv_reference(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """What the kernel must do, in plain torch."""
    if min(slots.tolist(), default=0) < 0:
        stored = slots >= 0
        k, v, slots = k[stored], v[stored], slots[stored]
    k_cache.view(-1, *k.shape[1:]).index_copy_(0, slots, k)
    v_cache.view(-1, *v.shape[1:]).index_copy_(0, slots, v)


@triton.jit
def write_kv_kernel(
    k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slots_ptr,
    k_token_stride, k_head_stride, v_token_stride, v_head_stride,
    H: tl.constexpr, D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    if slot >= 0:
        heads = tl.arange(0, BLOCK_H)[:, None].to(tl.int64)  # a head's stride can be long as well
        columns = tl.arange(0, BLOCK_D)[None, :]
        inside = (heads < H) & (columns < D)
        k_ptrs = k_ptr + token * k_token_stride + heads * k_head_stride + columns
        v_ptrs = v_ptr + token * v_token_stride + heads * v_head_stride + columns
        target = slot * (H * D) + heads * D + columns
        tl.store(k_cache_ptr + target, tl.load(k_ptrs, mask=inside), mask=inside)
        tl.store(v_cache_ptr + target, tl.load(v_ptrs, mask=inside), mask=inside)


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Write one step's keys and values [T, Hkv, D] into their slots of the cache, in place.

    No slot may lie past the cache's end.  On a GPU that is not checked: to look at a slot, the CPU
    would have to wait for the GPU.
    """
    check_cache(k, v, k_cache, v_cache, slots)
    if not uses_triton(k):
        write_kv_reference(k, v, k_cache, v_cache, slots)
        return
    check_tensors(k=k, v=v, k_cache=k_cache, v_cache=v_cache)
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    T, H, D = k.shape
    launch(
        write_kv_kernel, (T,), k, v, k_cache, v_cache, slots.contiguous(),
        k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        H=H, D=D, BLOCK_H=next_power_of_2(H), BLOCK_D=next_power_of_2(D),
    )  # fmt: skip


def check_cache(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Refuse keys and values that do not fit the caches, with all of them in the message."""
    require(
        k.ndim == 3
        and k.shape == v.shape
        and k_cache.ndim == 4
        and k_cache.shape == v_cache.shape
        and k_cache.shape[2:] == k.shape[1:]
        and slots.shape == k.shape[:1]
        and slots.dtype == torch.int64
        and slots.device == k.device
        and k.dtype == v.dtype == k_cache.dtype == v_cache.dtype,
        lambda: (
            "write_kv needs k and v [T, Hkv, D], caches [blocks, block_size, Hkv, D] of the same "
            "dtype, and slots int64 [T] on their device, got "
            + ", ".join(
                f"{tuple(x.shape)} {x.dtype} {x.device}" for x in (k, v, k_cache, v_cache, slots)
            )
        ),
    )
    require(
        k_cache.is_contiguous() and v_cache.is_contiguous(),
        lambda: "write_kv needs contiguous caches, or it would write to a copy",
    )
