"""Attention of one new token per sequence over the paged KV cache, with the keys split.

One query over m keys is a matrix-vector product: sequences x key/value heads are too few programs
to fill a GPU, so each sequence's keys are cut into parts.  Part p gives its own softmax-weighted
values o_p and its log-sum-exp l_p = log sum_j exp(score_j); with l = log sum_p exp(l_p) the parts
merge to sum_p exp(l_p - l) o_p, which is the softmax over all keys.

Shapes: ``q`` [S, Hq, D], one query a sequence; ``k_cache``, ``v_cache`` [num_blocks, block_size,
Hkv, D]; the result is [S, Hq, D].  Bytes: each key and value once, 2 m Hkv D * element_size a
sequence, because the Hq / Hkv query heads of a group are the rows of one small matrix.  A key is
used for 2 Hq / Hkv operations an element: memory is the cost.
Source: Dao, Haziza, Massa and Sizov, "Flash-Decoding for long-context inference", 2023.
Lesson 09 builds this file.
"""

import functools

import torch
import torch.nn.functional as F

from litellama.kernels.attention_batch import AttentionBatch
from litellama.kernels.backend import (
    can_overlap,
    can_prefetch,
    launch,
    next_power_of_2,
    prefetch,
    stages,
    tl,
    triton,
    uses_triton,
)
from litellama.kernels.few_rows import MAX_FEW_ROWS
from litellama.kernels.flash_attention import LOG2_E
from litellama.kernels.flash_attention_varlen import attend, check_attention

# The parts of one row that the merge kernel holds in registers at once.
MAX_SPLITS = 128


def flash_decoding_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """What the kernels must compute, in plain torch."""
    (S, Hq, D), Hkv = q.shape, k_cache.shape[2]
    keys, values = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
    if batch.key_run is None:
        slots = batch.key_slots.flatten()
        keys, values = keys.index_select(0, slots), values.index_select(0, slots)
    else:
        keys, values = keys[batch.key_run], values[batch.key_run]
    k = keys.view(S, -1, Hkv, D).transpose(1, 2)  # [S, Hkv, max_seq_len, D]
    v = values.view(S, -1, Hkv, D).transpose(1, 2)
    mask = batch.is_key[:, None, None, :] if batch.key_run is None else None
    group = q.view(S, Hkv, Hq // Hkv, D)
    out = F.scaled_dot_product_attention(group, k, v, attn_mask=mask, scale=scale)
    if batch.without_keys is not None:
        out[batch.without_keys] = 0.0  # a softmax over nothing is NaN
    return out.reshape(S, Hq, D)


@triton.jit
def flash_decoding_kernel(
    q_ptr, k_ptr, v_ptr, part_ptr, log_sum_ptr, seq_lens_ptr, block_table_ptr, scale_log2,
    q_token_stride, q_head_stride, kv_block_stride, kv_token_stride, kv_head_stride, table_stride,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    OVERLAP: tl.constexpr, EARLY: tl.constexpr, PREFETCH: tl.constexpr,
):  # fmt: skip
    if EARLY:  # what comes next waits, too, and may fetch its weights meanwhile
        tl.extra.cuda.gdc_launch_dependents()
    # Heads first: programs that run together read neighbouring rows of the cache.
    kv_head, sequence = tl.program_id(0).to(tl.int64) % HKV, tl.program_id(0).to(tl.int64) // HKV
    split, num_splits = tl.program_id(1), tl.num_programs(1)
    k_ptr += kv_head * kv_head_stride
    v_ptr += kv_head * kv_head_stride
    block_table_ptr += sequence * table_stride

    # Parts of whole blocks of keys, as equal as can be; of a short sequence some are empty.
    seq_len = tl.load(seq_lens_ptr + sequence)
    num_blocks = tl.cdiv(seq_len, BLOCK_N)
    first = num_blocks * split // num_splits * BLOCK_N
    stop = tl.minimum(num_blocks * (split + 1) // num_splits * BLOCK_N, seq_len)
    if PREFETCH:  # the memory works on the first keys while the kernel ahead ends
        keys = tl.maximum(tl.minimum(first + tl.arange(0, BLOCK_N), stop - 1), 0)
        blocks = tl.load(block_table_ptr + keys // BLOCK_SIZE).to(tl.int64)
        places = blocks * kv_block_stride + keys % BLOCK_SIZE * kv_token_stride
        prefetch(k_ptr + places, D)
        prefetch(v_ptr + places, D)
    if OVERLAP:  # that kernel may write q and the newest key, not the lengths or the table
        tl.extra.cuda.gdc_wait()
    rows = tl.arange(0, BLOCK_M)
    heads = kv_head * GROUP + rows
    columns = tl.arange(0, BLOCK_D)[None, :]
    inside = (rows < GROUP)[:, None] & (columns < D)
    q_ptrs = q_ptr + sequence * q_token_stride + heads[:, None] * q_head_stride + columns
    q = tl.load(q_ptrs, mask=inside, other=0.0)
    unmasked = first + tl.maximum(stop - first, 0) // BLOCK_N * BLOCK_N
    last_key = tl.zeros([BLOCK_M], tl.int32) + (stop - 1)
    weighted, maximum, total = attend(
        q, last_key, first, unmasked, stop, k_ptr, v_ptr, block_table_ptr,
        kv_block_stride, kv_token_stride, scale_log2, D, BLOCK_SIZE, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    total = tl.where(total == 0.0, 1.0, total)  # no keys: zeros, of log-sum -inf
    part = (sequence * HKV * GROUP + heads) * num_splits + split
    tl.store(part_ptr + part[:, None] * D + columns, weighted / total[:, None], mask=inside)
    tl.store(log_sum_ptr + part, maximum + tl.log2(total), mask=rows < GROUP)


@triton.jit
def merge_splits_kernel(
    part_ptr, log_sum_ptr, out_ptr, num_splits,
    D: tl.constexpr, BLOCK_SPLITS: tl.constexpr, BLOCK_D: tl.constexpr,
    OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, BLOCK_SPLITS)
    columns = tl.arange(0, BLOCK_D)[None, :]
    log_sum_ptrs = log_sum_ptr + row * num_splits + splits
    log_sums = tl.load(log_sum_ptrs, mask=splits < num_splits, other=-float("inf"))
    maximum = tl.max(log_sums, axis=0)
    # With no keys at all, -inf - -inf would be NaN; every weight is zero then.
    weights = tl.exp2(log_sums - tl.where(maximum == -float("inf"), 0.0, maximum))
    total = tl.sum(weights, axis=0)
    part_ptrs = part_ptr + (row * num_splits + splits)[:, None] * D + columns
    parts = tl.load(part_ptrs, mask=(weights > 0.0)[:, None] & (columns < D), other=0.0)
    out = tl.sum(weights[:, None] * parts, axis=0) / tl.where(total == 0.0, 1.0, total)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    columns = tl.arange(0, BLOCK_D)
    tl.store(out_ptr + row * D + columns, out, mask=columns < D)


def flash_decoding(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of one query [S, Hq, D] a sequence over that sequence's keys in the cache.

    scale: positive factor of the scores, default 1 / sqrt(D).  D is at most 256.  A sequence of no
    keys gives zeros.  The launch depends on nothing that only the GPU knows, so a CUDA graph can
    hold it: the graph's ``batch.max_seq_len`` chooses the splits, and every length stays right.
    """
    check_attention(q, k_cache, v_cache, batch, scale)
    if not uses_triton(q):
        return flash_decoding_reference(q, k_cache, v_cache, batch, scale)
    q = q if q.stride(-1) == 1 else q.contiguous()
    (S, Hq, D), (_, BLOCK_SIZE, Hkv, _) = q.shape, k_cache.shape
    GROUP, BLOCK_D = Hq // Hkv, max(next_power_of_2(D), 16)  # tl.dot takes no fewer than 16
    BLOCK_M = max(next_power_of_2(GROUP), 16)
    largest = min(64, 16384 // (BLOCK_D * q.element_size()))  # of keys 16 KiB at most
    BLOCK_N, splits = choose_parts(S * Hkv, batch.max_seq_len, largest, slots(q.device))
    # Of 2,048 accumulators each thread of one warp holds 64.
    num_warps = 2 if BLOCK_N > 16 else max(BLOCK_M * BLOCK_D // 2048, 1)
    # After one row a matvec follows, after several few_rows, which may start only when these end.
    overlap = S <= MAX_FEW_ROWS and can_overlap(q.device)
    early = overlap and S == 1
    # Attention of one row begins late (rope_write_kv), and has no time for it.
    prefetches = overlap and S > 1 and BLOCK_N == 16 and D * q.element_size() % 16 == 0
    prefetches = prefetches and can_prefetch(k_cache) and can_prefetch(v_cache)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    log_sums = torch.empty(S, Hq, splits, dtype=torch.float32, device=q.device)
    # One split is the whole: it is written to its place, and there is nothing to merge.
    parts = out
    if splits > 1:
        parts = torch.empty(S, Hq, splits, D, dtype=torch.float32, device=q.device)
    launch(
        flash_decoding_kernel, (S * Hkv, splits),
        q, k_cache, v_cache, parts, log_sums, batch.seq_lens, batch.block_table,
        (D**-0.5 if scale is None else scale) * LOG2_E,
        q.stride(0), q.stride(1), *k_cache.stride()[:3], batch.block_table.stride(0),
        HKV=Hkv, GROUP=GROUP, D=D, BLOCK_SIZE=BLOCK_SIZE,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
        OVERLAP=overlap, EARLY=early, PREFETCH=prefetches,
        num_warps=num_warps, num_stages=stages(3),
    )  # fmt: skip
    if splits > 1:
        launch(
            merge_splits_kernel, (S * Hq,), parts, log_sums, out, splits,
            D=D, BLOCK_SPLITS=next_power_of_2(splits), BLOCK_D=BLOCK_D,
            OVERLAP=overlap, EARLY=early,
        )  # fmt: skip
    return out


@functools.cache
def choose_parts(programs: int, keys: int, largest: int, slots: int) -> tuple[int, int]:
    """(keys of a block, parts of a sequence): in how large steps to read the keys, how much apart.

    programs: sequences x key/value heads; keys: of the longest sequence; largest: the keys of a
    large block, ``slots`` of whose programs run at once.  Of programs with blocks of 16 keys and
    one warp twice as many do, and their loads are all on their way at once: a step of Llama-3.2-3B
    took an H100 3,175 us in place of 3,225 with 12 texts of 975 tokens, and 3% less with one of
    8,000.  Large blocks stay where programs are enough without parts, or so few that the GPU is not
    filled by either: a step of Llama-3.2-1B with one text of 256 tokens took 2% more with small.
    """
    blocks = min(triton.cdiv(keys, largest), MAX_SPLITS)
    splits = choose_splits(programs, blocks, slots)
    if splits == 1 or 2 * programs * blocks <= slots:
        return largest, splits
    return 16, choose_splits(programs, min(triton.cdiv(keys, 16), MAX_SPLITS), 2 * slots)


@functools.cache
def choose_splits(programs: int, most: int, slots: int) -> int:
    """Into how many parts, at most ``most``, to cut each sequence's keys so as to fill the GPU.

    programs: sequences x key/value heads; slots: programs that run at once.  n programs take
    ceil(n / slots) rounds, in which n / (rounds * slots) of the slots are busy.  Chosen is the
    fewest parts within a tenth of the busiest choice.
    """
    choices = range(1, max(most, 1) + 1)
    counts = [max(programs, 1) * n for n in choices]
    busy = [count / (triton.cdiv(count, slots) * slots) for count in counts]
    return next(n for n, b in zip(choices, busy, strict=True) if b >= 0.9 * max(busy))


@functools.cache
def slots(device: torch.device) -> int:
    """Programs with large blocks of keys that the device runs at once: four a multiprocessor."""
    if device.type == "cpu":
        return 16  # the interpreter runs one at a time; few, so that tests meet every case
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count
