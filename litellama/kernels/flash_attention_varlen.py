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
import torch.nn.functional as F

from litellama.kernels.attention_batch import AttentionBatch
from litellama.kernels.backend import launch, next_power_of_2, require, tl, triton, uses_triton

LOG2_E = 1.4426950408889634  # exp(x) = 2^(x log2 e), and 2^x is one instruction on a GPU


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
    (n, Hq, _), (m, Hkv, _) = q.shape, k.shape
    # SDPA's is_causal aligns the diagonal at the first key, which is right only when n = m.
    mask = None
    if 1 < n < m:
        mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None],
        attn_mask=mask, is_causal=1 < n == m, scale=scale, enable_gqa=Hq != Hkv,
    )  # fmt: skip
    return out[0].transpose(0, 1)


@triton.jit
def attend_to_keys(
    q, weighted, maximum, total, last_key, first, stop,
    k_ptr, v_ptr, blocks_ptr, block_stride, token_stride, scale_log2,
    D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take keys first .. stop - 1 into the online softmax of the rows of q [rows, BLOCK_D].

    A row's state is the ``maximum`` of its scores so far, the ``total`` of 2^(score - maximum), and
    the values ``weighted`` by these.  When MASKED, row r sees no key beyond last_key[r].
    """
    columns = tl.arange(0, BLOCK_D)[None, :]
    for start in range(first, stop, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        exists = keys < stop
        blocks = tl.load(blocks_ptr + keys // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        places = blocks * block_stride + (keys % BLOCK_SIZE) * token_stride
        inside = exists[:, None] & (columns < D)
        # "ieee" keeps float32 products in float32; the default would round them to TF32
        k = tl.load(k_ptr + places[:, None] + columns, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= last_key[:, None], scores, -float("inf"))
        # Finite from the first block on, because every row sees that block's first key.
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_maximum[:, None])
        rescale = tl.exp2(maximum - new_maximum)
        total = total * rescale + tl.sum(weights, axis=1)
        v = tl.load(v_ptr + places[:, None] + columns, mask=inside, other=0.0)
        weighted = weighted * rescale[:, None]
        weighted = tl.dot(weights.to(v.dtype), v, weighted, input_precision="ieee")
        maximum = new_maximum
    return weighted, maximum, total


@triton.jit
def flash_attention_varlen_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, query_starts_ptr, seq_lens_ptr, block_table_ptr, scale_log2,
    q_token_stride, q_head_stride, out_token_stride, out_head_stride,
    kv_block_stride, kv_token_stride, kv_head_stride, table_stride,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # A later tile sees more keys: the longest work starts first, so that none is left to the end.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head, sequence = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    query_start = tl.load(query_starts_ptr + sequence)
    num_queries = tl.load(query_starts_ptr + sequence + 1) - query_start
    if tile * BLOCK_M >= num_queries * GROUP:
        return
    # The GROUP query heads of one token are neighbouring rows, so that a key serves them all.
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    queries, heads = rows // GROUP, kv_head * GROUP + rows % GROUP
    tokens = (query_start + queries).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)[None, :]
    inside = (queries < num_queries)[:, None] & (columns < D)
    q_ptrs = q_ptr + (tokens * q_token_stride + heads * q_head_stride)[:, None] + columns
    q = tl.load(q_ptrs, mask=inside, other=0.0)

    # Every row sees the keys before its tile's first query; only those after need the causal mask.
    seq_len = tl.load(seq_lens_ptr + sequence)
    offset = seq_len - num_queries
    seen_by_all = offset + tile * BLOCK_M // GROUP + 1
    seen_by_any = tl.minimum(offset + (tile * BLOCK_M + BLOCK_M - 1) // GROUP + 1, seq_len)
    unmasked = seen_by_all // BLOCK_N * BLOCK_N
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    k_ptr += kv_head * kv_head_stride
    v_ptr += kv_head * kv_head_stride
    blocks_ptr = block_table_ptr + sequence * table_stride
    weighted, maximum, total = attend_to_keys(
        q, weighted, maximum, total, offset + queries, 0, unmasked,
        k_ptr, v_ptr, blocks_ptr, kv_block_stride, kv_token_stride, scale_log2,
        D, BLOCK_SIZE, BLOCK_N, BLOCK_D, MASKED=False,
    )  # fmt: skip
    weighted, maximum, total = attend_to_keys(
        q, weighted, maximum, total, offset + queries, unmasked, seen_by_any,
        k_ptr, v_ptr, blocks_ptr, kv_block_stride, kv_token_stride, scale_log2,
        D, BLOCK_SIZE, BLOCK_N, BLOCK_D, MASKED=True,
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

    scale: factor of the scores, default 1 / sqrt(D).  D is at most 256.  q may be a slice of a
    wider matrix.  Rows that belong to no sequence are left unwritten.
    """
    check_attention(q, k_cache, v_cache)
    if not uses_triton(q):
        return flash_attention_varlen_reference(q, k_cache, v_cache, batch, scale)
    q = q if q.stride(-1) == 1 else q.contiguous()
    (_, Hq, D), (_, BLOCK_SIZE, Hkv, _) = q.shape, k_cache.shape
    GROUP, S = Hq // Hkv, batch.seq_lens.shape[0]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    rows = batch.max_query_len * GROUP
    BLOCK_D = max(next_power_of_2(D), 16)  # tl.dot takes no fewer than 16
    BLOCK_M, BLOCK_N, num_warps = tile_sizes(rows, BLOCK_D, q.dtype)
    launch(
        flash_attention_varlen_kernel, (triton.cdiv(rows, BLOCK_M), Hkv, S),
        q, k_cache, v_cache, out, batch.query_starts, batch.seq_lens, batch.block_table,
        (D**-0.5 if scale is None else scale) * LOG2_E,
        q.stride(0), q.stride(1), out.stride(0), out.stride(1),
        *k_cache.stride()[:3], batch.block_table.stride(0),
        GROUP=GROUP, D=D, BLOCK_SIZE=BLOCK_SIZE, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
        num_warps=num_warps, num_stages=3,
    )  # fmt: skip
    return out


def tile_sizes(rows: int, BLOCK_D: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows of q and keys in a tile, and warps: what fits the 64 KiB of an AMD GPU's LDS."""
    if dtype == torch.float32:  # no tensor cores: operands must fit in registers
        BLOCK_M, BLOCK_N, num_warps = 32, 32, 4
    else:
        BLOCK_M, BLOCK_N, num_warps = 128, 64, 8
    if BLOCK_D > 128:
        BLOCK_N //= 2
    if rows < BLOCK_M:
        BLOCK_M, num_warps = max(next_power_of_2(rows), 16), 4
    return BLOCK_M, BLOCK_N, num_warps


def check_attention(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    """Refuse queries and caches that do not fit together, with all of them in the message."""
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
