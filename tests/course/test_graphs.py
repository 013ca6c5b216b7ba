"""Lesson 15's recorder: what it replays, what it refuses, and that it stands in for CUDA's."""

import pytest
import torch

from litellama import LLM, SamplingParams
from litellama.course.graphs import (
    CAPTURABLE,
    Graph,
    Use,
    counting_graphs,
    instead_of_cuda,
    replayed,
)
from litellama.course.swap import using
from litellama.engine.graphs import DecodeGraphs


def test_replays_read_new_numbers_and_write_to_the_old_places():
    x = torch.arange(6.0).view(2, 3)
    with Graph() as graph:
        a, b = (x * 2).split([1, 2], dim=1)
        total = torch.zeros(2)
        total += b.sum(-1)
        wide = a.expand(2, 4).reshape(-1)
    for _ in range(2):
        x.copy_(torch.randn(2, 3))
        graph.replay()
        torch.testing.assert_close(total, 2 * x[:, 1:].sum(-1))
        torch.testing.assert_close(wide, (2 * x[:, :1]).expand(2, 4).reshape(-1))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 2).any()),
        lambda x: x[x > 2],
        lambda x: x.masked_select(x > 2),
        lambda x: (x > 2).nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x.__setitem__(x > 2, 0.0),
    ],
)
def test_questions_are_refused(question, inference):
    x = torch.arange(4.0)
    with torch.inference_mode(inference), pytest.raises(RuntimeError, match="cannot hold"), Graph():
        question(x)


def test_what_python_knew_is_frozen():
    def by_number(x, lengths):
        return x * sum(lengths.tolist())

    x, lengths = torch.ones(3), torch.tensor([2, 3])
    assert replayed(by_number)(x, lengths).tolist() == [0.0] * 3
    assert replayed(lambda x, n: x * n.sum())(x, lengths).tolist() == [5.0] * 3


def test_padding_is_not_stored():
    cache = torch.full((2, 3, 4, 1, 2), torch.nan)  # k and v: 3 blocks of 4 slots
    k, v = torch.randn(2, 5, 1, 2)
    store = CAPTURABLE["write_kv"]
    store(k, v, *cache, torch.full((5,), -1))
    assert cache.isnan().all()
    for first in (0, 7):  # slot 0 is where padding would go astray
        store(k, v, *cache, torch.tensor([first, 9, -1, 11, -1]))
        for x, stored in ((k, cache[0]), (v, cache[1])):
            assert torch.equal(stored.view(-1, 1, 2)[[first, 9, 11]], x[[0, 1, 3]])
    assert (~cache.isnan()).sum() == 2 * 4 * 2


def test_the_engines_own_graphs_run_on_the_recorder(tiny_llama):
    prompts = [[5, 6, 7], [9], [77, 3]]
    params = [
        SamplingParams(temperature=t, max_tokens=n, ignore_eos=True, seed=3)
        for t, n in ((0.0, 7), (0.9, 9), (0.0, 4))
    ]
    settings = {"device": "cpu", "dtype": "float32", "max_seq_len": 64, "kv_cache_tokens": 192}
    expected = LLM(tiny_llama, **settings).generate(prompts, params)
    llm = LLM(tiny_llama, **settings)
    runner = llm.engine.runner
    runner.cache.fill_(torch.nan)
    with instead_of_cuda(Graph), using(**CAPTURABLE):
        runner.depth = 1
        runner._graphs = DecodeGraphs(
            runner.model, runner.cache, runner._tokens, max_seq_len=64, in_flight=2
        )
        made = llm.generate(prompts, params)
    assert [o.token_ids for o in made] == [o.token_ids for o in expected]
    assert [shape.size for shape in runner._graphs._graphs] == [4, 2, 1]
    assert all(type(graph) is Graph for graph in runner._graphs._graphs.values())


def test_filters_are_beyond_the_recorders_sampler():
    with pytest.raises(ValueError, match="leave them out"):
        CAPTURABLE["sample"](*[torch.zeros(1, 4)] * 7, filters=True)


def test_recordings_calls_and_replays_are_counted_inside_the_block_only():
    x = torch.ones(3)
    before = dict(vars(Graph))
    with counting_graphs() as use:
        with Graph() as graph:
            x + x
            x * x
        with Graph() as empty:
            pass
        graph.replay()
        graph.replay()
        empty.replay()  # nothing is computed, and nothing counted
        with graph:  # once more, and one call more
            x - x
    graph.replay()
    assert use == Use(recordings=3, calls=3, replays=2)
    assert dict(vars(Graph)) == before
