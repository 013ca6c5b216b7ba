"""FlashAttention-2: softmax(Q K^T * scale) V, with no score ever written to memory.

A program owns BLOCK_M queries of one head and walks over the keys in blocks of BLOCK_N.  Each query
keeps the maximum m of its scores so far, the total l = sum_j exp(s_j - m) and the values weighted
by exp(s_j - m); when a block raises m, l and the values are rescaled by exp(m_old - m_new).  The
division by l comes once, at the end.  Query head h reads key/value head h // (Hq / Hkv).

Shapes: ``q`` [B, Hq, Tq, D], ``k`` and ``v`` [B, Hkv, Tk, D]; the result is like q.  Causal: query
i sees keys 0 .. Tk - Tq + i, so that the last query sees all.  Bytes: q and the result once,
2 B Hq Tq D * element_size, and k and v once for each block of queries, from L2 for the most part.
4 D operations for each query and key that it sees: compute is the cost.
Source: Dao, "FlashAttention-2", 2023, arXiv:2307.08691.
Lesson 07 leads to it, lesson 08 builds this file.
"""

import torch
import torch.nn.functional as F

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

LOG2_E = 1.4426950408889634  # exp(x) = 2^(x log2 e), and 2^x is one instruction on a GPU


def flash_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> torch.Tensor:
    """What the kernel must compute, in plain torch."""
    Tq, Tk = q.shape[2], k.shape[2]
    # SDPA's is_causal aligns the diagonal at the first key, which is right only when Tq = Tk.
    mask = None
    if causal and 1 < Tq < Tk:
        mask = torch.ones(Tq, Tk, dtype=torch.bool, device=q.device).tril(Tk - Tq)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and 1 < Tq == Tk, scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


@triton.jit
def online_softmax(scores, maximum, total, scale_log2):
    """Take a block of scores [rows, keys] into the state of the rows.

    Returns the block's weights 2^(score - new maximum), the factor by which what was summed under
    the old maximum must be rescaled, the new maximum and the new total.
    """
    new_maximum = tl.maximum(maximum, tl.max(scores, axis=1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - new_maximum[:, None])  # one multiply-add a score
    rescale = tl.exp2(maximum - new_maximum)
    return weights, rescale, new_maximum, total * rescale + tl.sum(weights, axis=1)


@triton.jit
def load_rows(
    ptr, first, row_stride, num_rows,
    ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    INDEX: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Rows first .. first + ROWS - 1 of a matrix; zeros beyond num_rows when MASKED.

    INDEX: the integer type of offsets in the matrix.
    """
    rows, columns = first + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)[None, :]
    ptrs = ptr + (rows.to(INDEX) * row_stride)[:, None] + columns
    if MASKED:
        return tl.load(ptrs, mask=(rows < num_rows)[:, None] & (columns < D), other=0.0)
    elif D < BLOCK_D:
        return tl.load(ptrs, mask=columns < D, other=0.0)
    else:  # whole blocks need no mask, and nearly all blocks are whole
        return tl.load(ptrs)


@triton.jit
def attend_to_keys(
    q, weighted, maximum, total, last_key, start, stop,
    k_ptr, v_ptr, k_stride, v_stride, num_keys, scale_log2,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    INDEX: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take keys start .. stop - 1 into the rows of q.  When MASKED, row r ends at last_key[r]."""
    for first in range(start, stop, BLOCK_N):
        k = load_rows(k_ptr, first, k_stride, num_keys, BLOCK_N, D, BLOCK_D, INDEX, MASKED)
        # "ieee" keeps float32 products in float32; the default would round them to TF32
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            keys = first + tl.arange(0, BLOCK_N)
            scores = tl.where(keys[None, :] <= last_key[:, None], scores, -float("inf"))
        weights, rescale, maximum, total = online_softmax(scores, maximum, total, scale_log2)
        v = load_rows(v_ptr, first, v_stride, num_keys, BLOCK_N, D, BLOCK_D, INDEX, MASKED)
        weighted = weighted * rescale[:, None]
        weighted = tl.dot(weights.to(v.dtype), v, weighted, input_precision="ieee")
    return weighted, maximum, total


@triton.jit
def flash_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, scale_log2, Hq, Tq, Tk,
    q_batch, q_head, q_row, k_batch, k_head, k_row,
    v_batch, v_head, v_row, out_batch, out_head, out_row,
    GROUP: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    # A later tile sees more keys: the longest work starts first, so that none is left to the end.
    tiles = tl.cdiv(Tq, BLOCK_M)
    tile = tiles - 1 - tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles % Hq).to(tl.int64)
    batch = (tl.program_id(0) // tiles // Hq).to(tl.int64)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head // GROUP * k_head
    v_ptr += batch * v_batch + head // GROUP * v_head
    start = tile * BLOCK_M
    q = load_rows(q_ptr, start, q_row, Tq, BLOCK_M, D, BLOCK_D, INDEX, MASKED=True)

    # All rows see the first ``unmasked`` keys; from there to ``stop`` each row has its last key.
    rows = start + tl.arange(0, BLOCK_M)
    if CAUSAL:
        last_key = Tk - Tq + rows
        unmasked, stop = Tk - Tq + start + 1, tl.minimum(Tk - Tq + start + BLOCK_M, Tk)
    else:
        last_key = tl.zeros([BLOCK_M], tl.int32) + (Tk - 1)
        unmasked, stop = Tk, Tk
    unmasked = unmasked // BLOCK_N * BLOCK_N
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    maximum, total = tl.full([BLOCK_M], -float("inf"), tl.float32), tl.zeros([BLOCK_M], tl.float32)
    weighted, maximum, total = attend_to_keys(
        q, weighted, maximum, total, last_key, 0, unmasked,
        k_ptr, v_ptr, k_row, v_row, Tk, scale_log2, D, BLOCK_N, BLOCK_D, INDEX, MASKED=False,
    )  # fmt: skip
    weighted, maximum, total = attend_to_keys(
        q, weighted, maximum, total, last_key, unmasked, stop,
        k_ptr, v_ptr, k_row, v_row, Tk, scale_log2, D, BLOCK_N, BLOCK_D, INDEX, MASKED=True,
    )  # fmt: skip
    columns = tl.arange(0, BLOCK_D)[None, :]
    out_ptr += batch * out_batch + head * out_head
    out_ptrs = out_ptr + (rows.to(INDEX) * out_row)[:, None] + columns
    tl.store(out_ptrs, weighted / total[:, None], mask=(rows < Tq)[:, None] & (columns < D))


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of q [B, Hq, Tq, D] over k and v [B, Hkv, Tk, D]; like q.

    scale: positive factor of the scores, default 1 / sqrt(D).  D is at most 256; Hq is a multiple
    of Hkv; when causal, Tq is at most Tk.  Any strides with a dense last axis; others are copied.
    """
    check_dense(q, k, v, causal, scale)
    if not uses_triton(q):
        return flash_attention_reference(q, k, v, causal, scale)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    (B, Hq, Tq, D), (_, Hkv, Tk, _) = q.shape, k.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    BLOCK_D = max(next_power_of_2(D), 16)  # tl.dot takes no fewer than 16
    BLOCK_M, BLOCK_N, num_warps, num_stages = tile_sizes(Tq, BLOCK_D, q.dtype)
    # 64-bit offsets cost a tenth of the speed on an H100: only where 32 bits are too few.
    rows, stride = max(Tq, Tk), max(x.stride(2) for x in (q, k, v, out))
    INDEX = tl.int32 if rows * stride < 2**31 else tl.int64
    launch(
        flash_attention_kernel, (triton.cdiv(Tq, BLOCK_M) * Hq * B,),
        q, k, v, out, (D**-0.5 if scale is None else scale) * LOG2_E, Hq, Tq, Tk,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        GROUP=Hq // Hkv, D=D, CAUSAL=causal, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
        INDEX=INDEX, num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip
    return out


def tile_sizes(rows: int, BLOCK_D: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """BLOCK_M, BLOCK_N, warps and stages, for tiles of up to ``rows`` queries."""
    if dtype == torch.float32:  # no tensor cores: operands must fit in registers
        BLOCK_M, BLOCK_N, num_stages = 32, 32, 2
    else:  # two programs on one multiprocessor of an H100: one's products hide the other's waits
        BLOCK_M, BLOCK_N, num_stages = 64, 64, 3
    if BLOCK_D > 128:
        BLOCK_N, num_stages = BLOCK_N // 2, 2
    return min(BLOCK_M, max(next_power_of_2(rows), 16)), BLOCK_N, 4, stages(num_stages)


def check_dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None
) -> None:
    """Refuse tensors that do not fit together, with all of them in the message."""
    if uses_triton(q):
        check_tensors(q=q, k=k, v=v)
    require(
        q.ndim == k.ndim == 4
        and k.shape == v.shape
        and q.dtype == k.dtype == v.dtype
        and q.shape[0] == k.shape[0]
        and k.shape[1] > 0
        and q.shape[1] % k.shape[1] == 0
        and q.shape[3] == k.shape[3] <= 256
        and k.shape[2] >= (q.shape[2] if causal else 1),
        lambda: (
            "attention needs q [B, Hq, Tq, D], k and v [B, Hkv, Tk, D] of one dtype, "
            "with D at most 256, Hq a multiple of Hkv, at least one key, and Tq at most Tk when "
            f"causal, got q {tuple(q.shape)} {q.dtype}, k {tuple(k.shape)} {k.dtype} and "
            f"v {tuple(v.shape)} {v.dtype}"
        ),
    )
    check_scale(scale)


def check_scale(scale: float | None) -> None:
    """Refuse a scale that is not positive: the largest product must give the largest score."""
    require(
        scale is None or scale > 0, lambda: f"attention needs a positive scale, got scale={scale}"
    )
