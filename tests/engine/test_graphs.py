"""The bookkeeping of decode graphs on a CPU: a graph that is replayed is the step that it holds.

Whether CUDA captures it is for the tests on a GPU; which ids, slots, blocks and settings a replay
finds in its inputs is the same here.
"""

import random
from types import SimpleNamespace

import pytest
import torch

from litellama import LLM, SamplingParams
from litellama.engine.graphs import DecodeGraphs


@pytest.fixture
def replayed(monkeypatch) -> None:
    """Graphs without CUDA: nothing is pinned, and a replay runs the step."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, pin_memory=False, **k: zeros(*size, **k))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)

    def capture(graphs: DecodeGraphs, shape) -> SimpleNamespace:
        graphs.sampling.steps.add_(1000)  # as the run before a capture leaves nothing as it was
        return SimpleNamespace(replay=lambda: graphs._step(shape))

    monkeypatch.setattr(DecodeGraphs, "_capture", capture)


def with_graphs(folder, depth: int, **settings) -> LLM:
    llm = LLM(folder, device="cpu", dtype="float32", **settings)
    runner = llm._runner
    runner.depth = depth
    runner._graphs = DecodeGraphs(
        runner.model, runner.cache, runner._tokens, max_seq_len=llm.max_seq_len, in_flight=2
    )
    return llm


def random_work(rng: random.Random) -> tuple[list[list[int]], list[SamplingParams]]:
    prompts, params = [], []
    for _ in range(rng.randint(1, 9)):
        prompts.append([rng.randrange(200) for _ in range(rng.choice([1, 1, 3, 20]))])
        params.append(
            SamplingParams(
                temperature=rng.choice([0.0, 0.9]),
                top_p=rng.choice([1.0, 0.8]),
                repetition_penalty=rng.choice([1.0, 1.3]),
                max_tokens=rng.randint(1, 30),
                seed=rng.randrange(1000),
                ignore_eos=True,
            )
        )
    return prompts, params


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_tokens_are_those_of_steps_without_graphs(tiny_llama, replayed, seed, depth):
    rng = random.Random(seed)
    prompts, params = random_work(rng)
    expected = LLM(tiny_llama, device="cpu", dtype="float32").generate(prompts, params)
    settings = {"max_num_seqs": rng.randint(1, 8), "block_size": rng.choice([1, 4, 16])}
    llm = with_graphs(tiny_llama, depth, kv_cache_tokens=96, max_seq_len=64, **settings)
    for _ in range(2):  # the second time from cached blocks
        made = llm.generate(prompts, params)
        assert [o.token_ids for o in made] == [o.token_ids for o in expected]
    assert llm._runner._graphs._graphs, "no step was a graph"


@pytest.mark.parametrize("steps", [2, 3, 9, 17])
def test_after_an_interrupt_before_a_step_its_blocks_are_looked_up_anew(
    tiny_llama, replayed, monkeypatch, steps
):
    """The request comes back with the tokens that the graphs wait for, and in other blocks."""
    params = SamplingParams(temperature=0.9, max_tokens=24, ignore_eos=True, seed=3)
    llm = with_graphs(tiny_llama, 1, block_size=4)
    expected = llm.generate([[5, 9, 77, 3]], params)[0].token_ids
    llm = with_graphs(tiny_llama, 1, block_size=4)
    engine = llm.engine
    request = engine.submit([5, 9, 77, 3], params, seed=3)
    for _ in range(steps):
        engine.step()

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.scheduler, "schedule", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    engine.scheduler.manager._free.move_to_end(0)  # so that it gets other blocks this time
    while request.finish_reason is None:
        engine.step()
        if request.blocks and (graphs := llm._runner._graphs)._next:
            assert graphs._table[0, : len(request.blocks)].tolist() == request.blocks
    assert request.output_token_ids == expected


def test_after_an_interrupt_the_same_requests_begin_anew(tiny_llama, replayed, monkeypatch):
    prompts = [[5], [9], [77]]
    params = SamplingParams(temperature=0.9, max_tokens=8, ignore_eos=True, seed=3)
    llm = with_graphs(tiny_llama, 1, block_size=4)
    expected = [o.token_ids for o in llm.generate(prompts, params)]
    llm = with_graphs(tiny_llama, 1, block_size=4)
    engine = llm.engine
    requests = [engine.submit(prompt, params, seed=3) for prompt in prompts]
    submit = engine.runner.submit

    def interrupted(step):
        submit(step)
        monkeypatch.setattr(engine.runner, "submit", submit)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.runner, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    while any(r.finish_reason is None for r in requests):
        engine.step()
    assert [r.output_token_ids for r in requests] == expected
