"""Attention of one new token per sequence over the paged KV cache.

Shapes: ``q`` [S, Hq, D], one query a sequence; ``k_cache``, ``v_cache`` [num_blocks, block_size,
Hkv, D]; the result is [S, Hq, D].  The Hq / Hkv query heads of a
group see the same keys, so they are treated as the rows of one small matrix and each key is read
once per key/value head.  Here the torch version runs everywhere.
Source: Dao, Haziza, Massa and Sizov, "Flash-Decoding for long-context inference", 2023.
Lesson 09 builds this file.
"""

import torch
import torch.nn.functional as F

from litellama.kernels.attention_batch import AttentionBatch


def flash_decoding(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of one query [S, Hq, D] a sequence over that sequence's keys in the cache.

    scale: factor of the scores, default 1 / sqrt(D).
    """
    (S, Hq, D), Hkv = q.shape, k_cache.shape[2]
    k = k_cache.flatten(0, 1)[batch.key_slots].transpose(1, 2)  # [S, Hkv, max_seq_len, D]
    v = v_cache.flatten(0, 1)[batch.key_slots].transpose(1, 2)
    mask = batch.is_key[:, None, None, :] if S > 1 else None
    group = q.view(S, Hkv, Hq // Hkv, D)
    out = F.scaled_dot_product_attention(group, k, v, attn_mask=mask, scale=scale)
    return out.reshape(S, Hq, D)
