"""Paged attention against the plain formula in float64, and against reads out of place.

Every cache is full of NaN but for the keys and values that its sequences own (see paged.py).
"""

import importlib
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from litellama import kernels
from litellama.kernels import flash_attention_varlen, flash_decoding
from litellama.kernels.backend import launch
from tests.kernels.compare import DTYPES, close
from tests.kernels.paged import Step, make_step

# The module, of which the package's attribute of that name is the function.
decoding = importlib.import_module("litellama.kernels.flash_decoding")

# numpy's warnings of infinities and NaN, in the interpreter
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both = pytest.mark.parametrize("kernel", [flash_attention_varlen, flash_decoding])


# lengths = (new tokens, keys) of each sequence; Hq, Hkv, D, block_size
VARLEN = {
    "no_tokens": ([(0, 0), (0, 5)], 4, 2, 16, 16),
    "one_token": ([(1, 1)], 4, 4, 16, 16),
    "one_tile_and_one_more": ([(129, 129)], 1, 1, 16, 16),
    "several_with_an_empty_one": ([(5, 5), (0, 0), (17, 17), (1, 1)], 6, 2, 32, 4),
    "empty_ones_at_both_ends": ([(0, 0), (3, 9), (0, 0)], 2, 2, 16, 4),
    "chunks_at_an_offset": ([(7, 90), (33, 64), (64, 65)], 2, 1, 16, 16),
    "decode_steps": ([(1, 70), (1, 1), (1, 64)], 8, 1, 64, 16),
    "chunk_beside_decode": ([(40, 60), (1, 131)], 3, 3, 32, 1),
    "group_of_3": ([(25, 30)], 9, 3, 64, 16),
    "group_of_4": ([(18, 70)], 8, 2, 32, 16),
    "group_of_7": ([(11, 30), (1, 40)], 14, 2, 32, 16),
    "group_of_8": ([(19, 19), (2, 40)], 8, 1, 32, 4),
    "group_of_5_in_blocks_of_3": ([(30, 50)], 5, 1, 16, 3),
    "head_dim_10": ([(9, 20)], 6, 3, 10, 4),
    "head_dim_32": ([(33, 33)], 2, 1, 32, 16),
    "head_dim_40": ([(9, 20)], 2, 1, 40, 16),
    "head_dim_64": ([(66, 66)], 1, 1, 64, 16),
    "head_dim_80": ([(40, 70)], 2, 2, 80, 1),
    "head_dim_96": ([(9, 70)], 3, 1, 96, 16),
    "head_dim_128": ([(20, 67)], 2, 1, 128, 16),
    "head_dim_256": ([(6, 40)], 2, 1, 256, 16),
}


@dtypes
@pytest.mark.parametrize("name", VARLEN)
def test_varlen(name, dtype, device):
    step = make_step(*VARLEN[name], device, dtype)
    close(step.run(flash_attention_varlen), step.expected())


# keys of each sequence; Hq, Hkv, D, block_size
DECODING = {
    "one_key": ([1], 4, 4, 16, 16),
    "one_block_of_keys_and_one_more": ([129], 1, 1, 16, 16),
    "several_with_an_empty_one": ([5, 0, 300, 1], 6, 2, 32, 4),
    "all_empty": ([0, 0], 4, 2, 16, 16),
    "more_programs_than_slots": ([3, 40, 17, 9, 33, 64], 6, 6, 16, 16),
    "group_of_3": ([70, 200], 9, 3, 64, 16),
    "group_of_4": ([70], 8, 2, 64, 16),
    "group_of_7": ([33, 65], 14, 2, 32, 16),
    "group_of_8_in_blocks_of_1": ([140], 8, 1, 32, 1),
    "group_of_24": ([50], 24, 1, 16, 4),
    "head_dim_10": ([20, 150], 6, 3, 10, 4),
    "head_dim_32": ([130], 2, 1, 32, 16),
    "head_dim_40": ([100], 2, 1, 40, 16),
    "head_dim_80": ([100], 2, 2, 80, 16),
    "head_dim_96": ([150], 3, 1, 96, 4),
    "head_dim_128": ([100, 20], 4, 2, 128, 16),
    "head_dim_256": ([70], 2, 1, 256, 16),
}


@dtypes
@pytest.mark.parametrize("name", DECODING)
def test_decoding(name, dtype, device):
    lengths, *shape = DECODING[name]
    step = make_step([(min(m, 1), m) for m in lengths], *shape, device, dtype)
    padded = with_a_query_for_each(step, lengths)
    close(padded.run(flash_decoding), padded.expected())


@dtypes
@pytest.mark.sanitize
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize(
    "name",
    ["several_with_an_empty_one", "group_of_7", "group_of_24", "head_dim_10", "head_dim_256"],
)
def test_decoding_in_small_blocks(name, aligned, dtype, device, monkeypatch):
    """As many programs as fill the GPU, here a small one: blocks of 16 keys, the first of which are
    fetched ahead where their rows begin at multiples of 16 bytes."""
    monkeypatch.setattr(decoding, "slots", lambda device: 4)
    lengths, *shape = DECODING[name]
    lengths = [*lengths, 111]
    step = with_a_query_for_each(
        make_step([(min(m, 1), m) for m in lengths], *shape, device, dtype), lengths
    )
    if not aligned:
        caches = (torch.nn.functional.pad(x, (0, 1)) for x in (step.k_cache, step.v_cache))
        k_cache, v_cache = (x[..., :-1] for x in caches)
        step = replace(step, k_cache=k_cache, v_cache=v_cache)
    launched = []

    def recording(*arguments, **meta):
        launched.append(meta)
        launch(*arguments, **meta)

    monkeypatch.setattr(decoding, "launch", recording)
    close(step.run(flash_decoding), step.expected())
    assert launched[0]["BLOCK_N"] == 16
    assert aligned or not launched[0]["PREFETCH"]


def with_a_query_for_each(step: Step, lengths: list[int]) -> Step:
    """The step with one query a sequence, the empty ones too, as in a padded CUDA graph."""
    q = torch.randn(len(lengths), *step.q.shape[1:], device=step.q.device).to(step.q.dtype)
    starts = torch.arange(len(lengths) + 1, dtype=torch.int32, device=q.device)
    return replace(step, q=q, batch=replace(step.batch, query_starts=starts, max_query_len=1))


@both
@pytest.mark.parametrize("lengths", [[(1, 37), (1, 150), (1, 1)], [(1, 150)]], ids=["3", "lone"])
@pytest.mark.parametrize("shuffled", [True, False], ids=["scattered", "side_by_side"])
def test_the_two_kernels_and_the_torch_versions_agree(kernel, lengths, shuffled, device):
    step = make_step(lengths, 6, 2, 40, 4, device, shuffled=shuffled)
    assert (step.batch.key_run is not None) == (len(lengths) == 1 and not shuffled)
    with kernels.use_backend("torch"):
        close(step.run(kernel), step.expected())
    close(step.run(kernel), step.expected())


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("lengths", [[(1, 37), (1, 150)], [(1, 37)]], ids=["2", "lone"])
@pytest.mark.parametrize("shuffled", [True, False], ids=["scattered", "side_by_side"])
def test_decoding_with_room_for_more_keys_than_there_are(lengths, shuffled, backend, device):
    """As in a CUDA graph: ``max_seq_len`` is the most that the graph can take."""
    step = make_step(lengths, 6, 2, 40, 4, device, shuffled=shuffled)
    step = replace(step, batch=replace(step.batch, max_seq_len=256))
    with kernels.use_backend(backend):
        close(step.run(flash_decoding), step.expected())


@both
def test_a_scale_of_ones_own(kernel, device):
    step = make_step([(1, 37)], 2, 1, 16, 4, device)
    close(step.run(kernel, scale=0.7), step.expected(scale=0.7))


@both
def test_large_scores_do_not_overflow(kernel, device):
    step = make_step([(1, 150)], 2, 1, 16, 4, device)
    step.q *= 1000
    out = step.run(kernel)
    torch.testing.assert_close(out.double(), step.expected(), rtol=1e-3, atol=1e-3)


@both
def test_equal_values_give_that_value(kernel, device):
    step = make_step([(1, 200), (1, 3)], 4, 2, 16, 16, device)
    value = torch.randn(2, 16, device=device)
    step.v_cache[~step.v_cache.isnan().any(-1).any(-1)] = value
    out = step.run(kernel)
    torch.testing.assert_close(out, value.repeat_interleave(2, dim=0).expand(2, 4, 16))


@both
def test_a_step_takes_slices_of_larger_tensors(kernel, device):
    """q from a fused matrix, one layer's cache from all, and a table narrower than its rows."""
    step = make_step([(1, 20), (1, 9)], 4, 2, 16, 4, device)
    wide = torch.full((2, 8, 16), torch.nan, device=device)
    wide[:, 2:6] = step.q
    caches = torch.full((*step.k_cache.shape[:2], 4, 16), torch.nan, device=device)
    caches[:, :, :2], caches[:, :, 2:] = step.k_cache, step.v_cache
    table = torch.zeros(2, 50, dtype=torch.int32, device=device)
    width = step.batch.block_table.shape[1]
    table[:, :width] = step.batch.block_table
    batch = replace(step.batch, block_table=table[:, :width])
    out = kernel(wide[:, 2:6], caches[:, :, :2], caches[:, :, 2:], batch)
    close(out, step.expected())


def test_causal_attention_ignores_what_comes_later(device):
    step = make_step([(50, 50)], 2, 1, 16, 16, device)
    before = step.run(flash_attention_varlen)
    row = step.batch.slots[30]
    step.k_cache.view(-1, 1, 16)[row] += 1
    after = step.run(flash_attention_varlen)
    assert torch.equal(before[:30], after[:30])
    assert (before[30:] != after[30:]).any(-1).all()


def test_chunks_give_what_the_whole_prompt_gives(device):
    step = make_step([(100, 100)], 3, 1, 16, 4, device)
    whole = step.run(flash_attention_varlen)
    for start, stop in pairwise([0, 1, 40, 99, 100]):
        batch = replace(
            step.batch,
            query_starts=torch.tensor([0, stop - start], dtype=torch.int32, device=device),
            seq_lens=torch.tensor([stop], dtype=torch.int32, device=device),
            slots=step.batch.slots[start:stop],
            max_query_len=stop - start,
            max_seq_len=stop,
        )
        out = flash_attention_varlen(step.q[start:stop], step.k_cache, step.v_cache, batch)
        torch.testing.assert_close(out, whole[start:stop], rtol=1e-5, atol=1e-6)


@both
def test_the_order_of_keys_changes_nothing_to_a_query_that_sees_them_all(kernel, device):
    """One new token sees every key: the keys' and values' slots in any order are one set."""
    step = make_step([(1, 150), (1, 20)], 4, 2, 16, 4, device)
    expected = step.run(kernel)
    for s, length in enumerate(step.batch.seq_lens.tolist()):
        slots = step.batch.key_slots[s, :length]
        shuffled = slots[torch.randperm(length, device=device)]
        for cache in (step.k_cache, step.v_cache):
            rows = cache.flatten(0, 1)
            rows[slots] = rows[shuffled]
    torch.testing.assert_close(step.run(kernel), expected, rtol=1e-5, atol=1e-6)


@both
@pytest.mark.parametrize("block_size", [1, 3, 16, 256])
def test_blocks_of_any_size_in_any_order_change_nothing(kernel, block_size, device):
    """Bit for bit: where a key lies decides nothing about what is computed with it."""
    lengths = [(1, 70), (1, 1), (1, 33)]
    step = make_step(lengths, 4, 2, 16, block_size, device)
    expected = make_step(lengths, 4, 2, 16, 128, device, shuffled=False)
    for cache, source in ((step.k_cache, expected.k_cache), (step.v_cache, expected.v_cache)):
        for s, (_, length) in enumerate(lengths):
            mine, its = (x.batch.key_slots[s, :length] for x in (step, expected))
            cache.flatten(0, 1)[mine] = source.flatten(0, 1)[its]
    step = replace(step, q=expected.q)
    assert torch.equal(step.run(kernel), expected.run(kernel))


@both
def test_a_sequence_alone_and_among_others_is_the_same(kernel, device):
    step = make_step([(1, 150), (1, 0), (1, 40)], 4, 2, 16, 4, device)
    together = step.run(kernel)
    for s, length in enumerate(step.batch.seq_lens.tolist()):
        batch = replace(
            step.batch,
            query_starts=torch.tensor([0, 1], dtype=torch.int32, device=device),
            seq_lens=step.batch.seq_lens[s : s + 1],
            block_table=step.batch.block_table[s : s + 1],
            slots=step.batch.slots[:1],
            max_seq_len=length,
        )
        if length:  # with no key and one query varlen has nothing to compute from
            alone = kernel(step.q[s : s + 1], step.k_cache, step.v_cache, batch)
            torch.testing.assert_close(alone, together[s : s + 1], rtol=1e-5, atol=1e-6)


@both
def test_a_step_of_no_sequences_is_empty(kernel, device):
    step = make_step([(1, 5)], 4, 2, 16, 4, device)
    none = torch.zeros(1, dtype=torch.int32, device=device)
    batch = replace(
        step.batch, query_starts=none, seq_lens=none[:0], block_table=step.batch.block_table[:0],
        slots=step.batch.slots[:0], max_query_len=0, max_seq_len=0,
    )  # fmt: skip
    assert kernel(step.q[:0], step.k_cache, step.v_cache, batch).shape == (0, 4, 16)


def test_a_common_prefix_may_be_shared(device):
    """Two sequences whose tables begin with the same blocks, as with prefix caching."""
    step = make_step([(10, 26), (7, 23)], 4, 2, 16, 4, device)
    table = step.batch.block_table.clone()
    table[1, :4] = table[0, :4]  # the first 16 keys of both
    shared = replace(step, batch=replace(step.batch, block_table=table))
    close(shared.run(flash_attention_varlen), shared.expected())


@pytest.mark.parametrize("splits", [1, 2, 3, 7, 40])
def test_the_number_of_splits_changes_nothing(splits, device, monkeypatch):
    """More splits than blocks of keys too: then some have no keys."""
    monkeypatch.setattr(decoding, "choose_splits", lambda *_: splits)
    step = make_step([(1, 300), (1, 1), (1, 129)], 2, 1, 16, 16, device)
    close(step.run(flash_decoding), step.expected())


def test_a_stale_max_seq_len_changes_nothing(device):
    """A CUDA graph holds the launch of the step that was captured; the lengths grow after it."""
    step = make_step([(1, 300), (1, 12)], 2, 1, 16, 16, device)
    for max_seq_len in (1, 5000):
        stale = replace(step, batch=replace(step.batch, max_seq_len=max_seq_len))
        close(stale.run(flash_decoding), step.expected())


@pytest.mark.parametrize(
    ("programs", "most", "expected"),
    [(1, 8, 8), (8, 128, 30), (96, 32, 5), (240, 32, 1), (512, 64, 1), (4096, 64, 1), (0, 0, 1)],
)
def test_choice_of_splits_on_264_slots(programs, most, expected):
    assert decoding.choose_splits(programs, most, 264) == expected


@pytest.mark.parametrize(
    ("programs", "keys", "expected"),
    [
        (8, 256, (64, 4)),  # few keys: no more programs than large blocks
        (8, 2048, (64, 29)),
        (8, 4096, (16, 116)),
        (96, 1024, (16, 10)),
        (512, 4096, (64, 1)),  # sequences enough
        (0, 0, (64, 1)),
    ],
)
def test_choice_of_parts_on_528_slots(programs, keys, expected):
    assert decoding.choose_parts(programs, keys, 64, 528) == expected


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
@both
def test_what_does_not_fit_is_refused(kernel, change, message):
    step = make_step([(1, 20)], 4, 2, 16, 16, "cpu")
    with pytest.raises(ValueError, match=message):
        replace(step, **change).run(kernel)


@pytest.mark.parametrize(
    "change",
    [
        {"seq_lens": torch.ones(2, dtype=torch.int64)},
        {"query_starts": torch.ones(3)},
        {"block_table": torch.ones(5, 2, dtype=torch.int32).T},
        {"seq_lens": torch.ones(4, dtype=torch.int32)[::2]},
        {"slots": torch.ones(2, dtype=torch.int64, device="meta")},
    ],
    ids=["int64", "floats", "transposed", "every_other", "device"],
)
def test_tables_that_the_kernels_would_misread_are_refused(change):
    batch = make_step([(1, 3), (1, 20)], 4, 2, 16, 16, "cpu").batch
    with pytest.raises(ValueError, match="AttentionBatch needs query_starts"):
        replace(batch, **change)


@pytest.mark.gpu
def test_decoding_in_a_cuda_graph_follows_the_lengths():
    step = make_step([(1, 700), (1, 33)], 8, 2, 64, 16, "cuda", torch.float16)
    lengths = step.batch.seq_lens.clone()
    step.run(flash_decoding)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    step.batch.seq_lens.fill_(1)
    with torch.cuda.graph(graph):
        out = step.run(flash_decoding)
    step.batch.seq_lens.copy_(lengths)
    graph.replay()
    close(out, step.expected())
