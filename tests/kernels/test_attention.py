"""Paged attention against the plain formula in float64, and against reads out of place.

Every cache is full of NaN but for the keys and values that its sequences own, and the block table's
unused entries point at a block of NaN, so that one key too many shows in the result.
"""

import importlib
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from litellama import kernels
from litellama.kernels import AttentionBatch, flash_attention_varlen, flash_decoding
from tests.kernels.compare import DTYPES, close

# The module, of which the package's attribute of that name is the function.
decoding = importlib.import_module("litellama.kernels.flash_decoding")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dataclass
class Case:
    """One step: packed queries, the paged cache, and the same keys and values laid out plainly."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    batch: AttentionBatch
    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    def expected(self, scale: float | None = None) -> torch.Tensor:
        """softmax(q K^T scale) V in float64, one sequence at a time, the mask spelt out."""
        out = torch.zeros(self.q.shape, dtype=torch.float64, device=self.q.device)
        scale = self.q.shape[-1] ** -0.5 if scale is None else scale
        group = self.q.shape[1] // self.k_cache.shape[2]
        bounds = pairwise(self.batch.query_starts.tolist())
        for (start, stop), keys, values in zip(bounds, self.keys, self.values, strict=True):
            k = keys.double().repeat_interleave(group, dim=1)
            v = values.double().repeat_interleave(group, dim=1)
            n, m = stop - start, len(keys)
            future = torch.ones(n, m, dtype=torch.bool, device=k.device).triu(m - n + 1)
            scores = torch.einsum("nhd,mhd->hnm", self.q[start:stop].double(), k) * scale
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            out[start:stop] = torch.einsum("hnm,mhd->nhd", weights, v)
        return out


def make_case(
    lengths: list[tuple[int, int]],
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    shuffled: bool = True,
) -> Case:
    """Sequences of ``lengths`` = (new tokens, keys), in shuffled blocks of a cache of NaN."""
    needed = [-(-keys // block_size) for _, keys in lengths]
    order = torch.randperm(sum(needed)) if shuffled else torch.arange(sum(needed))
    order = (1 + order).split(needed)  # block 0 belongs to nobody
    table = torch.zeros(len(lengths), max(needed) + 1, dtype=torch.int32)
    shape = (1 + sum(needed), block_size, kv_heads, head_dim)
    cache = torch.full((2, *shape), torch.nan, dtype=dtype)
    all_slots, keys, values = [], [], []
    for s, ((new, length), blocks) in enumerate(zip(lengths, order, strict=True)):
        table[s, : len(blocks)] = blocks
        slots = (blocks[:, None] * block_size + torch.arange(block_size)).flatten()[:length]
        k, v = torch.randn(2, length, kv_heads, head_dim).to(dtype)
        cache[0].view(-1, kv_heads, head_dim)[slots] = k
        cache[1].view(-1, kv_heads, head_dim)[slots] = v
        all_slots.append(slots[length - new :])
        keys.append(k.to(device))
        values.append(v.to(device))
    starts = torch.tensor([0, *(new for new, _ in lengths)]).cumsum(0)
    q = torch.randn(int(starts[-1]), q_heads, head_dim).to(dtype)
    batch = AttentionBatch(
        query_starts=starts.int().to(device),
        seq_lens=torch.tensor([m for _, m in lengths], dtype=torch.int32, device=device),
        block_table=table.to(device),
        slots=torch.cat(all_slots).to(device),
        block_size=block_size,
        max_query_len=max(n for n, _ in lengths),
        max_seq_len=max(m for _, m in lengths),
    )
    k_cache, v_cache = cache.to(device)
    return Case(q.to(device), k_cache, v_cache, batch, keys, values)


def run(kernel, case: Case, **options) -> torch.Tensor:
    return kernel(case.q, case.k_cache, case.v_cache, case.batch, **options)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """torch.empty hands out NaN, so that an element which a kernel does not write is seen."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


VARLEN = {
    "one_token": ([(1, 1)], 4, 4, 16, 16),
    "one_tile_and_one_more": ([(129, 129)], 1, 1, 16, 16),
    "several_with_an_empty_one": ([(5, 5), (0, 0), (17, 17), (1, 1)], 6, 2, 32, 4),
    "chunks_at_an_offset": ([(7, 90), (33, 64), (64, 65)], 2, 1, 16, 16),
    "decode_steps": ([(1, 70), (1, 1), (1, 64)], 8, 1, 64, 16),
    "chunk_beside_decode": ([(40, 60), (1, 131)], 3, 3, 32, 1),
    "group_of_3": ([(25, 30)], 9, 3, 64, 16),
    "group_of_8": ([(19, 19), (2, 40)], 8, 1, 32, 4),
    "group_of_5_in_blocks_of_3": ([(30, 50)], 5, 1, 16, 3),
    "head_dim_10": ([(9, 20)], 6, 3, 10, 4),
    "head_dim_40": ([(9, 20)], 2, 1, 40, 16),
    "head_dim_80": ([(40, 70)], 2, 2, 80, 1),
    "head_dim_96": ([(9, 70)], 3, 1, 96, 16),
    "head_dim_256": ([(6, 40)], 2, 1, 256, 16),
}


@dtypes
@pytest.mark.parametrize("name", VARLEN)
def test_varlen(name, dtype, device):
    case = make_case(*VARLEN[name], device, dtype)
    close(run(flash_attention_varlen, case), case.expected())


DECODING = {
    "one_key": ([1], 4, 4, 16, 16),
    "one_block_of_keys_and_one_more": ([129], 1, 1, 16, 16),
    "several_with_an_empty_one": ([5, 0, 300, 1], 6, 2, 32, 4),
    "all_empty": ([0, 0], 4, 2, 16, 16),
    "more_programs_than_slots": ([3, 40, 17, 9, 33, 64], 6, 6, 16, 16),
    "group_of_3": ([70, 200], 9, 3, 64, 16),
    "group_of_8_in_blocks_of_1": ([140], 8, 1, 32, 1),
    "group_of_24": ([50], 24, 1, 16, 4),
    "head_dim_10": ([20, 150], 6, 3, 10, 4),
    "head_dim_40": ([100], 2, 1, 40, 16),
    "head_dim_80": ([100], 2, 2, 80, 16),
    "head_dim_96": ([150], 3, 1, 96, 4),
    "head_dim_256": ([70], 2, 1, 256, 16),
}


@dtypes
@pytest.mark.parametrize("name", DECODING)
def test_decoding(name, dtype, device):
    lengths, *shape = DECODING[name]
    case = make_case([(min(m, 1), m) for m in lengths], *shape, device, dtype)
    padded = with_a_query_for_each(case, lengths)
    close(run(flash_decoding, padded), padded.expected())


def with_a_query_for_each(case: Case, lengths: list[int]) -> Case:
    """The case with one query a sequence, the empty ones too, as in a padded CUDA graph."""
    q = torch.randn(len(lengths), *case.q.shape[1:], device=case.q.device).to(case.q.dtype)
    starts = torch.arange(len(lengths) + 1, dtype=torch.int32, device=q.device)
    return replace(case, q=q, batch=replace(case.batch, query_starts=starts, max_query_len=1))


@pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])
@pytest.mark.parametrize("lengths", [[(1, 37), (1, 150), (1, 1)], [(1, 150)]], ids=["3", "lone"])
@pytest.mark.parametrize("shuffled", [True, False], ids=["scattered", "side_by_side"])
def test_the_two_kernels_and_the_torch_versions_agree(kernel, lengths, shuffled, device):
    case = make_case(lengths, 6, 2, 40, 4, device, shuffled=shuffled)
    assert (case.batch.key_run is not None) == (len(lengths) == 1 and not shuffled)
    with kernels.use_backend("torch"):
        close(run(kernel, case), case.expected())
    close(run(kernel, case), case.expected())


@pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])
def test_a_scale_of_ones_own(kernel, device):
    case = make_case([(1, 37)], 2, 1, 16, 4, device)
    close(run(kernel, case, scale=0.7), case.expected(scale=0.7))


@pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])
def test_large_scores_do_not_overflow(kernel, device):
    case = make_case([(1, 150)], 2, 1, 16, 4, device)
    case.q *= 1000
    out = run(kernel, case)
    torch.testing.assert_close(out.double(), case.expected(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])
def test_equal_values_give_that_value(kernel, device):
    case = make_case([(1, 200), (1, 3)], 4, 2, 16, 16, device)
    value = torch.randn(2, 16, device=device)
    case.v_cache[~case.v_cache.isnan().any(-1).any(-1)] = value
    out = run(kernel, case)
    torch.testing.assert_close(out, value.repeat_interleave(2, dim=0).expand(2, 4, 16))


@pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])
def test_a_step_takes_slices_of_larger_tensors(kernel, device):
    """q from a fused matrix, one layer's cache from all, and a table narrower than its rows."""
    case = make_case([(1, 20), (1, 9)], 4, 2, 16, 4, device)
    wide = torch.full((2, 8, 16), torch.nan, device=device)
    wide[:, 2:6] = case.q
    caches = torch.full((*case.k_cache.shape[:2], 4, 16), torch.nan, device=device)
    caches[:, :, :2], caches[:, :, 2:] = case.k_cache, case.v_cache
    table = torch.zeros(2, 50, dtype=torch.int32, device=device)
    width = case.batch.block_table.shape[1]
    table[:, :width] = case.batch.block_table
    batch = replace(case.batch, block_table=table[:, :width])
    out = kernel(wide[:, 2:6], caches[:, :, :2], caches[:, :, 2:], batch)
    close(out, case.expected())


def test_causal_attention_ignores_what_comes_later(device):
    case = make_case([(50, 50)], 2, 1, 16, 16, device)
    before = run(flash_attention_varlen, case)
    row = case.batch.slots[30]
    case.k_cache.view(-1, 1, 16)[row] += 1
    after = run(flash_attention_varlen, case)
    assert torch.equal(before[:30], after[:30])
    assert (before[30:] != after[30:]).any(-1).all()


def test_chunks_give_what_the_whole_prompt_gives(device):
    case = make_case([(100, 100)], 3, 1, 16, 4, device)
    whole = run(flash_attention_varlen, case)
    for start, stop in pairwise([0, 1, 40, 99, 100]):
        batch = replace(
            case.batch,
            query_starts=torch.tensor([0, stop - start], dtype=torch.int32, device=device),
            seq_lens=torch.tensor([stop], dtype=torch.int32, device=device),
            slots=case.batch.slots[start:stop],
            max_query_len=stop - start,
            max_seq_len=stop,
        )
        out = flash_attention_varlen(case.q[start:stop], case.k_cache, case.v_cache, batch)
        torch.testing.assert_close(out, whole[start:stop], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("splits", [1, 2, 3, 7, 40])
def test_the_number_of_splits_changes_nothing(splits, device, monkeypatch):
    """More splits than blocks of keys too: then some have no keys."""
    monkeypatch.setattr(decoding, "choose_splits", lambda *_: splits)
    case = make_case([(1, 300), (1, 1), (1, 129)], 2, 1, 16, 16, device)
    close(run(flash_decoding, case), case.expected())


def test_a_stale_max_seq_len_changes_nothing(device):
    """A CUDA graph holds the launch of the step that was captured; the lengths grow after it."""
    case = make_case([(1, 300), (1, 12)], 2, 1, 16, 16, device)
    for max_seq_len in (1, 5000):
        stale = replace(case, batch=replace(case.batch, max_seq_len=max_seq_len))
        close(run(flash_decoding, stale), case.expected())


@pytest.mark.parametrize(
    ("programs", "most", "expected"),
    [(1, 8, 8), (8, 128, 30), (96, 32, 5), (240, 32, 1), (512, 64, 1), (4096, 64, 1), (0, 0, 1)],
)
def test_choice_of_splits_on_264_slots(programs, most, expected):
    assert decoding.choose_splits(programs, most, 264) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.ones(1, 3, 16)}, r"q \(1, 3, 16\).*k \(3, 16, 2, 16\)"),
        ({"q": torch.ones(1, 4, 8)}, "of one dtype, with D at most 256"),
        ({"k_cache": torch.ones(3, 16, 2, 16).half()}, "float16"),
        ({"k_cache": torch.ones(3, 16, 16, 2).mT}, "dense last axis"),
    ],
    ids=["heads", "head_dim", "dtype", "strides"],
)
@pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])
def test_what_does_not_fit_is_refused(kernel, change, message):
    case = make_case([(1, 20)], 4, 2, 16, 16, "cpu")
    with pytest.raises(ValueError, match=message):
        run(kernel, replace(case, **change))


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(30))
def test_random_steps(seed):
    """A broad sweep, compiled: any heads, groups, head_dim, block size, dtype and lengths."""
    torch.manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), ()))]

    dtype = DTYPES[seed % 3]
    kv_heads, group = pick(1, 2, 3, 4), pick(1, 2, 3, 4, 7, 8, 16)
    head_dim = pick(10, 32, 40, 64, 64, 80, 96, 128, 128, 160, 256)
    shape = (group * kv_heads, kv_heads, head_dim, pick(1, 4, 16, 64))
    for _ in range(4):
        keys = torch.randint(pick(2, 100, 1200), (pick(1, 2, 5),)).tolist()
        lengths = [(pick(min(m, 1), m, m // 2), m) for m in [*keys, 1]]
        case = make_case(lengths, *shape, "cuda", dtype)
        close(run(flash_attention_varlen, case), case.expected())
        decode = with_a_query_for_each(case, [m for _, m in lengths])
        close(run(flash_decoding, decode), decode.expected())


@pytest.mark.gpu
def test_a_cache_of_more_than_two_to_the_31_elements():
    """The last blocks of a cache of 5 GB, whose elements no int32 can count."""
    case = make_case([(70, 70)], 2, 1, 128, 16, "cuda", torch.float16)
    used = case.k_cache.shape[0]
    blocks = 2**31 // (16 * 128) + 2 * used
    k_cache, v_cache = torch.empty(2, blocks, 16, 1, 128, dtype=torch.float16, device="cuda")
    k_cache[-used:], v_cache[-used:] = case.k_cache, case.v_cache
    batch = replace(case.batch, block_table=case.batch.block_table + (blocks - used))
    out = flash_attention_varlen(case.q, k_cache, v_cache, batch)
    close(out, case.expected())
    last = replace(batch, query_starts=batch.query_starts.clamp(max=1), max_query_len=1)
    close(flash_decoding(case.q[-1:], k_cache, v_cache, last), case.expected()[-1:])


@pytest.mark.gpu
def test_decoding_in_a_cuda_graph_follows_the_lengths():
    case = make_case([(1, 700), (1, 33)], 8, 2, 64, 16, "cuda", torch.float16)
    lengths = case.batch.seq_lens.clone()
    run(flash_decoding, case)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    case.batch.seq_lens.fill_(1)
    with torch.cuda.graph(graph):
        out = run(flash_decoding, case)
    case.batch.seq_lens.copy_(lengths)
    graph.replay()
    close(out, case.expected())
