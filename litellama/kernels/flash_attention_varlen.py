"""Causal attention of packed queries over the paged KV cache, with no padding ("nopad").

For query i of a sequence with n new tokens among m keys: softmax(q_i K^T * scale) V over the keys
0 .. m - n + i.  Query head h reads key/value head h // (Hq / Hkv) (grouped queries).  The offset
m - n makes one function serve a whole prompt (n = m), a chunk of one, and a decode step (n = 1).

Shapes: ``q`` [T, Hq, D]; ``k_cache``, ``v_cache`` [num_blocks, block_size, Hkv, D]; ``batch`` as in
``AttentionBatch``; the result is [T, Hq, D].  Bytes: read q and write the result once, 2 T Hq D *
element_size, and read the keys and values once for each tile of queries; the scores, n x m a head,
never leave the chip.  4 D operations for each query and key that it sees: compute is the cost.
Source: Dao, "FlashAttention-2", 2023, arXiv:2307.08691; Kwon et al., 2023, arXiv:2309.06180.
Lesson 08 builds this file.
"""

import torch

from litellama.kernels.attention_batch import AttentionBatch
from litellama.kernels.backend import (
    check_tensors,
    launch,
    next_power_of_2,
    require,
    stages,
    tl,
    triton,
    uses_triton,
)
from litellama.kernels.flash_attention import (
    LOG2_E,
    check_scale,
    flash_attention_reference,
    online_softmax,
    tile_sizes,
)


def flash_attention_varlen_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """What the kernel must compute, in plain torch, one sequence after the other."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    keys, values = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
    starts, lengths = batch.query_starts.tolist(), batch.seq_lens.tolist()
    for s, length in enumerate(lengths):
        rows = slice(starts[s], starts[s + 1])
        if rows.start == rows.stop:
            continue
        mine = batch.key_slots[s, :length]
        out[rows] = attend_one(q[rows], keys[mine], values[mine], scale)
    return out


def attend_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Causal attention of one sequence's last n tokens: q [n, Hq, D] over k, v [m, Hkv, D]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = flash_attention_reference(q, k, v, causal=True, scale=scale)
    return out[0].transpose(0, 1)


@triton.jit
def load_keys(
    ptr, blocks_ptr, first, block_stride, token_stride, num_keys, ROWS: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SIZE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Keys (or values) first .. first + ROWS - 1 of a sequence, through its row of the block table.

    Zeros beyond num_keys when MASKED.
    """
    rows, columns = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)[None, :]
    keys = first + rows
    if BLOCK_SIZE % ROWS == 0:  # they lie in one block: one look into the table for all
        block = tl.load(blocks_ptr + first // BLOCK_SIZE, mask=first < num_keys, other=0)
        ptr += block.to(tl.int64) * block_stride + (first % BLOCK_SIZE) * token_stride
        places = rows * token_stride
    else:
        blocks = tl.load(blocks_ptr + keys // BLOCK_SIZE, mask=keys < num_keys, other=0)
        places = blocks.to(tl.int64) * block_stride + (keys % BLOCK_SIZE) * token_stride
    ptrs = ptr + places[:, None] + columns
    if MASKED:
        return tl.load(ptrs, mask=(keys < num_keys)[:, None] & (columns < D), other=0.0)
    elif D < BLOCK_D:
        return tl.load(ptrs, mask=columns < D, other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def attend_to_keys(
    q, weighted, maximum, total, last_key, start, stop,
    k_ptr, v_ptr, blocks_ptr, block_stride, token_stride, scale_log2, D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take keys start .. stop - 1 into the rows of q: ``flash_attention``'s loop, but paged."""
    for first in range(start, stop, BLOCK_N):
        k = load_keys(
            k_ptr, blocks_ptr, first, block_stride, token_stride, stop,
            BLOCK_N, D, BLOCK_D, BLOCK_SIZE, MASKED,
        )  # fmt: skip
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            keys = first + tl.arange(0, BLOCK_N)
            scores = tl.where(keys[None, :] <= last_key[:, None], scores, -float("inf"))
        weights, rescale, maximum, total = online_softmax(scores, maximum, total, scale_log2)
        v = load_keys(
            v_ptr, blocks_ptr, first, block_stride, token_stride, stop,
            BLOCK_N, D, BLOCK_D, BLOCK_SIZE, MASKED,
        )  # fmt: skip
        weighted = weighted * rescale[:, None]
        weighted = tl.dot(weights.to(v.dtype), v, weighted, input_precision="ieee")
    return weighted, maximum, total


@triton.jit
def attend(
    q, last_key, begin, unmasked, stop,
    k_ptr, v_ptr, blocks_ptr, block_stride, token_stride, scale_log2, D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Attention of the rows of q [BLOCK_M, BLOCK_D] over the keys begin .. stop - 1 of a sequence.

    Row r sees none beyond last_key[r], which only the keys from ``unmasked`` on can be.  begin and
    unmasked are multiples of BLOCK_N.  Returns the weighted values (not yet divided by their
    total), and each row's maximum and total in powers of two.
    """
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    maximum, total = tl.full([BLOCK_M], -float("inf"), tl.float32), tl.zeros([BLOCK_M], tl.float32)
    weighted, maximum, total = attend_to_keys(
        q, weighted, maximum, total, last_key, begin, unmasked,
        k_ptr, v_ptr, blocks_ptr, block_stride, token_stride, scale_log2,
        D, BLOCK_SIZE, BLOCK_N, BLOCK_D, MASKED=False,
    )  # fmt: skip
    weighted, maximum, total = attend_to_keys(
        q, weighted, maximum, total, last_key, unmasked, stop,
        k_ptr, v_ptr, blocks_ptr, block_stride, token_stride, scale_log2,
        D, BLOCK_SIZE, BLOCK_N, BLOCK_D, MASKED=True,
    )  # fmt: skip
    return weighted, maximum, total


@triton.jit(do_not_specialize=["S"])  # each count of sequences would be compiled when it is met
def flash_attention_varlen_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, query_starts_ptr, seq_lens_ptr, block_table_ptr, scale_log2, S,
    q_token_stride, q_head_stride, out_token_stride, out_head_stride,
    kv_block_stride, kv_token_stride, kv_head_stride, table_stride,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # A sequence begins a new tile, at the latest tile_starts of the packed rows: this tile belongs
    # to the last sequence that begins at or before it.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    sequences = tl.arange(0, BLOCK_S)
    starts = tl.load(query_starts_ptr + sequences, mask=sequences < S, other=0)
    tile_starts = starts * GROUP // BLOCK_M + sequences
    sequence = tl.sum(((tile_starts <= program) & (sequences < S)).to(tl.int32)) - 1
    query_start = tl.load(query_starts_ptr + sequence)
    num_queries = tl.load(query_starts_ptr + sequence + 1) - query_start
    tile = program - (query_start * GROUP // BLOCK_M + sequence)
    if tile * BLOCK_M >= num_queries * GROUP:
        return
    # The GROUP query heads of one token are neighbouring rows, so that a key serves them all.
    rows, columns = tile * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)[None, :]
    kv_head = tl.program_id(1).to(tl.int64)
    queries, heads = rows // GROUP, kv_head * GROUP + rows % GROUP
    tokens = (query_start + queries).to(tl.int64)
    inside = (queries < num_queries)[:, None] & (columns < D)
    q_ptrs = q_ptr + (tokens * q_token_stride + heads * q_head_stride)[:, None] + columns
    q = tl.load(q_ptrs, mask=inside, other=0.0)

    # Every row sees the keys up to its tile's first query; only those after need the causal mask.
    seq_len = tl.load(seq_lens_ptr + sequence)
    offset = seq_len - num_queries
    unmasked = (offset + tile * BLOCK_M // GROUP + 1) // BLOCK_N * BLOCK_N
    stop = tl.minimum(offset + (tile * BLOCK_M + BLOCK_M - 1) // GROUP + 1, seq_len)
    weighted, _, total = attend(
        q, offset + queries, 0, unmasked, stop,
        k_ptr + kv_head * kv_head_stride, v_ptr + kv_head * kv_head_stride,
        block_table_ptr + sequence.to(tl.int64) * table_stride, kv_block_stride, kv_token_stride,
        scale_log2, D, BLOCK_SIZE, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    out_ptrs = out_ptr + (tokens * out_token_stride + heads * out_head_stride)[:, None] + columns
    tl.store(out_ptrs, weighted / total[:, None], mask=inside)


def flash_attention_varlen(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of each sequence's new tokens [T, Hq, D] over its own keys in the cache.

    scale: positive factor of the scores, default 1 / sqrt(D).  D is at most 256.  q may be a slice
    of a wider matrix.  Rows that belong to no sequence are left unwritten.
    """
    check_attention(q, k_cache, v_cache, batch, scale)
    if not uses_triton(q):
        return flash_attention_varlen_reference(q, k_cache, v_cache, batch, scale)
    q = q if q.stride(-1) == 1 else q.contiguous()
    (T, Hq, D), (_, BLOCK_SIZE, Hkv, _) = q.shape, k_cache.shape
    GROUP, S = Hq // Hkv, batch.seq_lens.shape[0]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    BLOCK_D = max(next_power_of_2(D), 16)  # tl.dot takes no fewer than 16
    rows = batch.max_query_len * GROUP
    BLOCK_M, BLOCK_N, num_warps, num_stages = tile_sizes(rows, BLOCK_D, q.dtype)
    if BLOCK_SIZE % BLOCK_N and BLOCK_M == 64 and BLOCK_D == 128:
        # Keys spread over many blocks cost many addresses: more queries share them.
        BLOCK_M, num_warps = 128, 8
    # Each sequence has at most one tile that is not full, so this many are enough.
    tiles = triton.cdiv(T * GROUP, BLOCK_M) + S
    launch(
        flash_attention_varlen_kernel, (tiles if S else 0, Hkv),
        q, k_cache, v_cache, out, batch.query_starts, batch.seq_lens, batch.block_table,
        (D**-0.5 if scale is None else scale) * LOG2_E, S,
        q.stride(0), q.stride(1), out.stride(0), out.stride(1),
        *k_cache.stride()[:3], batch.block_table.stride(0),
        GROUP=GROUP, D=D, BLOCK_SIZE=BLOCK_SIZE, BLOCK_S=max(next_power_of_2(S), 256),
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
        num_warps=num_warps, num_stages=stages(num_stages + 2),  # a look into the table goes before
    )  # fmt: skip
    return out


def check_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None,
) -> None:
    """Refuse queries and caches that do not fit together, with all of them in the message."""
    if uses_triton(q):
        check_tensors(q=q, k_cache=k_cache, v_cache=v_cache)
    require(
        q.device == batch.slots.device,
        lambda: f"q is on {q.device}, and its batch on another device, {batch.slots.device}",
    )
    require(
        q.ndim == 3
        and k_cache.ndim == 4
        and k_cache.shape == v_cache.shape
        and k_cache.dtype == v_cache.dtype == q.dtype
        and k_cache.shape[3] == q.shape[2] <= 256
        and q.shape[1] % k_cache.shape[2] == 0,
        lambda: (
            "attention needs q [tokens, Hq, D] and caches [blocks, block_size, Hkv, D] of one "
            "dtype, with D at most 256 and Hq a multiple of Hkv, got "
            f"q {tuple(q.shape)} {q.dtype}, k {tuple(k_cache.shape)} {k_cache.dtype} and "
            f"v {tuple(v_cache.shape)} {v_cache.dtype}"
        ),
    )
    require(
        k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1,
        lambda: (
            "attention needs caches of one layout with a dense last axis, got strides "
            f"{k_cache.stride()} and {v_cache.stride()}"
        ),
    )
    check_scale(scale)
