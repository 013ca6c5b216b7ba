"""Causal attention of packed queries over the paged KV cache, with no padding ("nopad").

For query i of a sequence with n new tokens among m keys: softmax(q_i K^T * scale) V over the keys
0 .. m - n + i.  Query head h reads key/value head h // (Hq / Hkv) (grouped queries).  The offset
m - n makes one function serve a whole prompt (n = m), a chunk of one, and a decode step (n = 1).

Shapes: ``q`` [T, Hq, D]; ``k_cache``, ``v_cache`` [num_blocks, block_size, Hkv, D]; ``batch`` as in
``AttentionBatch``; the result is [T, Hq, D].  Here the torch version runs everywhere.
Source: Dao, "FlashAttention-2", 2023, arXiv:2307.08691; Kwon et al., 2023, arXiv:2309.06180.
Lesson 08 builds this file.
"""

import torch
import torch.nn.functional as F

from litellama.kernels.attention_batch import AttentionBatch


def flash_attention_varlen(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of each sequence's new tokens [T, Hq, D] over its own keys in the cache.

    scale: factor of the scores, default 1 / sqrt(D).
    """
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
