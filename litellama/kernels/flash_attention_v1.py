"""FlashAttention, the first version: exact attention in tiles, keys outside and queries inside.

For each block of keys, in turn, and each block of queries: the scores s, the row maxima
m' = max(m, max_j s_j), the totals l' = exp(m - m') l + sum_j exp(s_j - m'), and
out' = (l exp(m - m') out + exp(s - m') V) / l'.  The rows of out, m and l travel to memory and back
for each block of keys, and one program walks through all of a head.  Version 2
(``flash_attention``) turns the loops round, and so keeps a row's state on the chip, divides by l
once, and has as many programs as blocks of queries.

Shapes: ``q`` [B, Hq, Tq, D], ``k`` and ``v`` [B, Hkv, Tk, D]; the result is like q.  Causal: query
i sees keys 0 .. Tk - Tq + i.  Bytes: k and v once, and for each block of keys all of q, and out, m
and l both ways.  Source: Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithm 1.  Kept
for lesson 08, which builds this file; the engine never calls it.
"""

import torch

from litellama.kernels.backend import launch, next_power_of_2, stages, tl, triton, uses_triton
from litellama.kernels.flash_attention import check_dense, flash_attention_reference

flash_attention_v1_reference = flash_attention_reference


@triton.jit
def flash_attention_v1_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, maximum_ptr, total_ptr, scale, Tq, Tk,
    GROUP: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)  # of all heads of all batches, as are the keys' heads
    q_ptr, out_ptr = q_ptr + head * Tq * D, out_ptr + head * Tq * D
    k_ptr, v_ptr = k_ptr + head // GROUP * Tk * D, v_ptr + head // GROUP * Tk * D
    columns = tl.arange(0, BLOCK_D)[None, :]
    for first_key in range(0, Tk, BLOCK_N):
        keys = first_key + tl.arange(0, BLOCK_N)
        kv_inside = (keys < Tk)[:, None] & (columns < D)
        kv_places = keys.to(tl.int64)[:, None] * D + columns
        k = tl.load(k_ptr + kv_places, mask=kv_inside, other=0.0)
        v = tl.load(v_ptr + kv_places, mask=kv_inside, other=0.0)
        # When causal, the queries before this one see none of these keys.
        first_query = tl.maximum(first_key - (Tk - Tq), 0) // BLOCK_M * BLOCK_M if CAUSAL else 0
        for start in range(first_query, Tq, BLOCK_M):
            rows = start + tl.arange(0, BLOCK_M)
            inside = (rows < Tq)[:, None] & (columns < D)
            places = rows.to(tl.int64)[:, None] * D + columns
            q = tl.load(q_ptr + places, mask=inside, other=0.0)
            out = tl.load(out_ptr + places, mask=inside, other=0.0)
            maximum = tl.load(maximum_ptr + head * Tq + rows, mask=rows < Tq, other=0.0)
            total = tl.load(total_ptr + head * Tq + rows, mask=rows < Tq, other=1.0)

            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            last_key = Tk - Tq + rows if CAUSAL else Tk - 1 + 0 * rows
            scores = tl.where(keys[None, :] <= last_key[:, None], scores, -float("inf"))
            new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
            weights = tl.exp(scores - new_maximum[:, None])
            rescaled = total * tl.exp(maximum - new_maximum)
            total = rescaled + tl.sum(weights, axis=1)
            weighted = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            out = (out * rescaled[:, None] + weighted) / total[:, None]

            tl.store(out_ptr + places, out, mask=inside)
            tl.store(maximum_ptr + head * Tq + rows, new_maximum, mask=rows < Tq)
            tl.store(total_ptr + head * Tq + rows, total, mask=rows < Tq)
        tl.debug_barrier()  # all threads have written before any reads again


def flash_attention_v1(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of q [B, Hq, Tq, D] over k and v [B, Hkv, Tk, D]; as ``flash_attention``."""
    check_dense(q, k, v, causal, scale)
    if not uses_triton(q):
        return flash_attention_v1_reference(q, k, v, causal, scale)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    (B, Hq, Tq, D), (_, Hkv, Tk, _) = q.shape, k.shape
    out = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    maximum = torch.full(q.shape[:3], -float("inf"), dtype=torch.float32, device=q.device)
    total = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
    BLOCK = 32 if q.dtype == torch.float32 or D > 128 else 64
    launch(
        flash_attention_v1_kernel, (B * Hq if Tq else 0,),
        q, k, v, out, maximum, total, D**-0.5 if scale is None else scale, Tq, Tk,
        GROUP=Hq // Hkv, D=D, CAUSAL=causal, BLOCK_M=BLOCK, BLOCK_N=BLOCK,
        BLOCK_D=max(next_power_of_2(D), 16), num_warps=4, num_stages=stages(2),
    )  # fmt: skip
    return out.to(q.dtype)
