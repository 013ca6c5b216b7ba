"""Batch invariance with a real model: nothing that the engine does shows in the tokens.

In float32 a request's tokens, greedy or sampled with a seed, are the same alone and in any batch,
with its prompt in chunks, begun from cached blocks, copied on write, or preempted and resumed.
"""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from litellama import LLM, SamplingParams
from litellama.engine.request import Request


@pytest.fixture(scope="module")
def alone(tiny_llama, device) -> LLM:
    """One request at a time, each prompt in one step, nothing from the cache."""
    return LLM(tiny_llama, device=device, dtype="float32", prefix_caching=False)


@pytest.fixture(scope="module")
def seen() -> Iterator[Counter]:
    """What has happened in all tests together: each way of computing must have been taken."""
    counts: Counter = Counter()
    yield counts
    wanted = ("preemptions", "hits", "copies", "chunks", "aborts")
    assert all(counts[what] for what in wanted), counts


def mixed_engine(tiny_llama, device: str, rng: random.Random, dtype: str = "float32") -> LLM:
    """A pool too small for its requests, and steps too small for their prompts."""
    return LLM(
        tiny_llama,
        device=device,
        dtype=dtype,
        max_num_seqs=rng.choice([2, 5, 12]),
        block_size=rng.choice([1, 2, 4, 8, 16, 32]),
        kv_cache_tokens=rng.choice([128, 160, 224]),
        max_seq_len=128,
        max_step_tokens=rng.choice([12, 33, 70, 2048]),
        trace_steps=100_000,
    )


def prompts(rng: random.Random) -> list[list[int]]:
    """Some begin alike, some are the same, some are as long as whole blocks."""
    beginning = [rng.randrange(260) for _ in range(64)]
    own = [[rng.randrange(260) for _ in range(rng.randint(1, 60))] for _ in range(4)]
    cut = [beginning[: rng.choice([8, 16, 32, 64])] + p[: rng.randint(0, 20)] for p in own]
    return [*own, *cut, beginning, beginning, beginning[:32], beginning[:32]]


@pytest.mark.parametrize("seed", range(24))
def test_tokens_are_those_that_each_request_has_alone(tiny_llama, alone, device, seen, seed):
    rng = random.Random(seed)
    llm = mixed_engine(tiny_llama, device, rng)
    work = [
        (
            prompt,
            SamplingParams(
                temperature=rng.choice([0.0, 0.0, 0.8]),
                top_p=rng.choice([1.0, 0.9]),
                top_k=rng.choice([0, 40]),
                repetition_penalty=rng.choice([1.0, 1.2]),
                max_tokens=rng.randint(1, 40),
                ignore_eos=True,
                seed=rng.randrange(1000),
            ),
        )
        for prompt in prompts(rng)
    ]
    rng.shuffle(work)
    requests: list[Request] = []
    engine = llm.engine
    while len(requests) < len(work) or any(r.finish_reason is None for r in requests):
        for _ in range(rng.choice([0, 0, 1, 4])):
            if len(requests) < len(work):
                prompt, params = work[len(requests)]
                requests.append(engine.submit(prompt, params, params.seed))
        engine.step()
        if rng.random() < 0.02 and requests:
            engine.abort(rng.choice(requests))
    for (prompt, params), request in zip(work, requests, strict=True):
        tokens = alone.generate(prompt, params)[0].token_ids
        if request.finish_reason == "aborted":
            seen["aborts"] += 1
            assert request.output_token_ids == tokens[: len(request.output_token_ids)]
        else:
            assert request.output_token_ids == tokens
    trace = engine.scheduler.trace
    seen["preemptions"] += engine.stats().preemptions
    seen["hits"] += engine.stats().cached_tokens
    seen["copies"] += sum(len(step.copies) for step in trace)
    seen["chunks"] += sum(not s.samples for step in trace for s in step.scheduled)
    assert engine.stats().free_blocks == engine.stats().blocks


@pytest.mark.parametrize("seed", range(4))
def test_in_bfloat16_each_token_is_the_likeliest_within_rounding(tiny_llama, device, seed):
    """Sums of another order round otherwise, so that two texts may part where two tokens are as
    good as equal; but each token is right for the text before it."""
    rng = random.Random(seed)
    llm = mixed_engine(tiny_llama, device, rng, "bfloat16")
    greedy = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    for out in llm.generate(prompts(rng), greedy):
        text = out.prompt_token_ids + out.token_ids
        logits = llm.logits(text[:-1])[len(out.prompt_token_ids) - 1 :]
        chosen = logits.gather(1, torch.tensor(out.token_ids)[:, None])[:, 0]
        # A bfloat16 logit at three standard deviations is rounded by up to 0.012 of one.
        assert ((logits.amax(-1) - chosen) < 0.06 * logits.std(-1)).all()
