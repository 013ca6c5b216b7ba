"""The sampler: parameters, distributions against exact probabilities, seeds and batches."""

import math

import numpy as np
import pytest
import torch

from litellama.errors import RequestError
from litellama.kernels.sample import gumbel
from litellama.sampling import SamplingBatch, SamplingParams, candidates, distribution, sample
from tests.statistics import chi_squared_limit

BAD = [
    ("temperature", -0.1),
    ("temperature", math.inf),
    ("temperature", "hot"),
    ("top_k", -1),
    ("top_k", 2.5),
    ("top_p", 0.0),
    ("top_p", 1.7),
    ("top_p", math.nan),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("repetition_penalty", 0.0),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -3),
    ("frequency_penalty", math.nan),
    ("max_tokens", 0),
    ("max_tokens", True),
    ("seed", -1),
    ("seed", 2**63),
    ("seed", 1.5),
    ("stop", ("",)),
    ("stop", 3),
    ("temperature", 10**400),
    ("seed", 10**400),
    ("ignore_eos", "no"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda v: str(v))
def test_parameters_out_of_range_are_refused_with_their_name_and_value(name, value):
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert repr(value) in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    params = SamplingParams(temperature=np.float32(0.5), seed=np.int64(3), top_k=np.int32(4))
    assert params == SamplingParams(temperature=0.5, seed=3, top_k=4)
    with pytest.raises(RequestError, match="seed must be an integer"):
        SamplingParams(seed=np.float32(3))


def test_one_stop_string_or_several():
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def make_batch(
    params: list[SamplingParams],
    seeds: list[int],
    steps: list[int] | None = None,
    texts: list[list[int]] | None = None,
    prompt_lens: list[int] | None = None,
    vocab: int = 1000,
) -> SamplingBatch:
    n = len(params)
    batch = SamplingBatch(n, vocab)
    batch.fill(params, seeds, steps or [0] * n, texts or [[]] * n, prompt_lens or [0] * n)
    return batch


def draw_many(logits: torch.Tensor, params: SamplingParams, count: int) -> torch.Tensor:
    """Frequencies [vocab] of ``count`` draws from one row of logits, at steps 0, 1, 2, ..."""
    batch = make_batch([params] * count, [12345] * count, list(range(count)))
    tokens = sample(logits.repeat(count, 1), batch)
    return torch.bincount(tokens, minlength=logits.shape[-1]).double() / count


def exact(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution by definition, in float64, one token at a time."""
    p = torch.softmax(logits.double() / params.temperature, -1)
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = order[: params.top_k] if params.top_k else order
    total, mass, nucleus = sum(p[i] for i in kept), 0.0, []
    for i in kept:
        nucleus.append(i)
        mass += p[i] / total
        if mass >= params.top_p:
            break
    nucleus = [i for i in nucleus if p[i] >= params.min_p * p[order[0]]]
    out = torch.zeros_like(p)
    out[nucleus] = p[nucleus] / p[nucleus].sum()
    return out


SETTINGS = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 3.0},
    "top_k": {"top_k": 3},
    "top_k_1": {"top_k": 1},
    "top_p": {"top_p": 0.6},
    "top_p_tiny": {"top_p": 1e-6},
    "min_p": {"min_p": 0.2},
    "all": {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_distribution_is_the_exact_one(settings):
    """Pearson's chi-squared test on 20,000 draws, at a significance of about one in a million."""
    logits = torch.tensor([1.0, 3.0, 0.5, 2.5, -1.0, 2.0, -4.0, 1.5])
    params = SamplingParams(**settings)
    expected, count = exact(logits, params), 20_000
    seen = draw_many(logits, params, count)
    possible = expected > 0
    assert seen[~possible].sum() == 0, "a dropped token was drawn"
    statistic = count * ((seen - expected)[possible].square() / expected[possible]).sum()
    assert statistic < chi_squared_limit(int(possible.sum()))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_distribution_shown_is_the_exact_one(settings):
    logits = torch.tensor([1.0, 3.0, 0.5, 2.5, -1.0, 2.0, -4.0, 1.5])
    params = SamplingParams(**settings)
    shown = distribution(logits[None].clone(), make_batch([params], [0]))[0]
    torch.testing.assert_close(shown.double(), exact(logits, params), atol=1e-6, rtol=1e-6)


def test_greedy_rows_and_sampled_rows_share_a_batch():
    logits = torch.randn(4, 50)
    params = [SamplingParams(temperature=t) for t in (0.0, 1.0, 0.0, 5.0)]
    tokens = sample(logits.clone(), make_batch(params, [1, 2, 3, 4]))
    assert tokens[0] == logits[0].argmax()
    assert tokens[2] == logits[2].argmax()


def test_a_draw_depends_on_seed_and_step_and_not_on_the_batch():
    logits = torch.randn(1, 1000)
    params = SamplingParams(top_p=0.95)
    others = torch.randn(3, 1000)
    rest = [SamplingParams(temperature=0), SamplingParams(top_k=3), SamplingParams(min_p=0.5)]

    def alone(seed: int) -> list[int]:
        return [sample(logits, make_batch([params], [seed], [i])).item() for i in range(20)]

    for step, token in enumerate(alone(7)):
        batch = make_batch([*rest, params], [1, 2, 3, 7], [9, 9, 9, step])
        assert sample(torch.cat([others, logits]), batch)[3] == token
    assert alone(8) != alone(7)
    assert len(set(alone(7))) > 10, "the step must matter, too"


def test_a_batch_filled_again_holds_nothing_of_the_requests_before():
    batch = make_batch([SamplingParams(top_k=2, repetition_penalty=3.0)] * 3, [5] * 3,
                       texts=[[1, 2, 3]] * 3, vocab=40)  # fmt: skip
    logits = torch.randn(2, 40)
    params = [SamplingParams(presence_penalty=1.0), SamplingParams()]
    batch.fill(params, [8, 9], [3, 4], [[4, 4, 5], [6]], [1, 1])
    fresh = make_batch(params, [8, 9], [3, 4], [[4, 4, 5], [6]], [1, 1], vocab=40)
    expected = distribution(logits.clone(), fresh)
    torch.testing.assert_close(distribution(logits.clone(), batch), expected)
    assert torch.equal(sample(logits.clone(), batch), sample(logits.clone(), fresh))
    assert (batch.filters, batch.penalties) == (False, True)
    assert sample(torch.randn(3, 40), batch).shape == (3,), "a spare row is a greedy one"
    batch.fill([], [], [], [], [])
    assert (batch.filters, batch.penalties) == (False, False)


def test_advance_is_what_filling_the_batch_again_would_be():
    params = [SamplingParams(presence_penalty=0.5, frequency_penalty=1.0, repetition_penalty=1.2),
              SamplingParams(top_p=0.9, frequency_penalty=-0.5), SamplingParams()]  # fmt: skip
    texts = [[1, 2, 2, 7], [3, 3], [5]]
    starts, seeds = [3, 1, 1], [1, 2, 3]
    batch = make_batch(params, seeds, [1, 1, 0], texts, starts, vocab=10)
    for _ in range(5):
        tokens = sample(torch.randn(3, 10), batch)
        batch.advance(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
    steps = [len(text) - start for text, start in zip(texts, starts, strict=True)]
    again = make_batch(params, seeds, steps, texts, starts, vocab=10)
    assert torch.equal(batch.steps, again.steps)
    assert torch.equal(batch.counts[:2], again.counts[:2])


def test_penalties_count_the_answer_and_only_repetition_the_prompt():
    """Token 0 is in the prompt, 1 once in the answer, 2 twice, 3 in both, and 4 in neither."""
    text, prompt_len = [0, 3, 1, 2, 3, 2], 2
    for settings, expected in (
        ({"presence_penalty": 0.5}, [1.0, 0.5, 0.5, 0.5, 1.0]),
        ({"frequency_penalty": 0.5}, [1.0, 0.5, 0.0, 0.5, 1.0]),
        ({"frequency_penalty": -0.5}, [1.0, 1.5, 2.0, 1.5, 1.0]),
        ({"repetition_penalty": 2.0}, [0.5, 0.5, 0.5, 0.5, 1.0]),
        ({"repetition_penalty": 2.0, "presence_penalty": 0.5}, [0.5, 0.0, 0.0, 0.0, 1.0]),
    ):
        params = SamplingParams(temperature=0, **settings)
        batch = make_batch([params], [0], [4], [text], [prompt_len], vocab=5)
        logits = torch.ones(1, 5)
        assert sample(logits, batch).item() == torch.tensor(expected).argmax()
        torch.testing.assert_close(logits, torch.tensor([expected]))


def test_repetition_penalty_pushes_seen_tokens_down_whatever_their_sign():
    logits = torch.tensor([[2.0, -1.0, 1.9, -3.0]])
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert sample(logits, make_batch([params], [0], [0], [[0, 1, 0]], [3], vocab=4)).item() == 2
    torch.testing.assert_close(logits, torch.tensor([[1.0, -2.0, 1.9, -3.0]]))


def test_penalties_are_those_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, text = torch.randn(1, 50), [3, 4, 4, 9, 11]
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([text]), logits.clone())
    params = SamplingParams(repetition_penalty=1.3)
    sample(logits, make_batch([params], [0], [2], [text], [3], vocab=50))
    torch.testing.assert_close(logits, theirs)


@pytest.mark.parametrize("seed", range(5))
def test_filters_are_those_of_transformers(seed):
    """The same order of filters, and the same tokens kept, at random settings."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, 500, generator=generator)
    T, p, m = (torch.rand(3, generator=generator) * torch.tensor([2.0, 1.0, 0.1]) + 1e-3).tolist()
    k = int(torch.randint(1, 100, (), generator=generator))
    warpers = [TemperatureLogitsWarper(T), TopKLogitsWarper(k), TopPLogitsWarper(p)]
    warp = LogitsProcessorList([*warpers, MinPLogitsWarper(m)])
    theirs = torch.softmax(warp(torch.zeros(1, 1, dtype=torch.int64), logits.clone()), -1)
    params = SamplingParams(temperature=T, top_k=k, top_p=p, min_p=m)
    ours = distribution(logits.clone(), make_batch([params], [0], vocab=500))
    torch.testing.assert_close(ours, theirs)


def test_equal_logits_stay_or_go_together():
    logits = torch.tensor([[1.0, 3.0, 1.0, 0.0, 1.0]])
    for settings in ({"top_k": 2}, {"top_p": 0.8}):
        kept = distribution(logits.clone(), make_batch([SamplingParams(**settings)], [0])) > 0
        assert kept.tolist() == [[True, True, True, False, True]]


def test_extreme_values_stay_finite():
    logits = torch.tensor([[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30]])
    for temperatures in ((1e-6, 1e6), (1e-300, 1e300)):
        params = [SamplingParams(temperature=t) for t in temperatures]
        params.append(SamplingParams(temperature=1.0, top_k=10**30))
        batch = make_batch(params, [0, 1, 2])
        assert sample(logits.clone(), batch)[0] == 0
        assert distribution(logits.clone(), batch).isfinite().all()


def test_candidates_say_what_the_model_thinks_and_what_is_drawn():
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0])
    params = SamplingParams(top_k=2, repetition_penalty=2.0)
    likely = candidates(logits, params, count=3, text=[1], prompt_len=1)
    assert [c.token_id for c in likely] == [1, 2, 0]
    expected = torch.softmax(logits, -1)[[1, 2, 0]].tolist()
    assert [c.probability for c in likely] == pytest.approx(expected)
    # The repetition penalty brought token 1 to the logit of token 2; the others are dropped.
    assert [c.chance for c in likely] == pytest.approx([0.5, 0.5, 0.0])
    greedy = candidates(logits, SamplingParams(temperature=0), count=99)
    assert [c.chance for c in greedy] == [1.0, 0.0, 0.0, 0.0]
    assert logits.tolist() == [0.0, 2.0, 1.0, -1.0]


def test_gumbel_noise_is_gumbel_and_unrelated():
    n = 100_000
    numbers, zero = torch.arange(n), torch.zeros(1, dtype=torch.int64)
    by_token = gumbel(zero + 42, zero, numbers)[0]
    by_step = gumbel(torch.full((n,), 42), numbers, zero)[:, 0]
    by_seed = gumbel(numbers, zero.expand(n), zero)[:, 0]
    for noise in (by_token, by_step, by_seed):
        u = (-(-noise.double()).exp()).exp()
        deviation = (u.sort().values - (numbers + 0.5) / n).abs().max()
        assert deviation < 5.2 / math.sqrt(n) / 2, "Kolmogorov-Smirnov, about one in 10^5"
        correlation = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
        assert correlation.abs() < 5 / math.sqrt(n)


def test_the_tail_of_the_noise_is_fine_enough_for_a_large_vocabulary():
    """Many tokens of a small probability are drawn as often as they should be, all together."""
    V, rows = 2**15, 200
    logits = torch.full((1, V), -30.0).expand(rows, -1).clone()
    logits[:, 0] = 0.0
    # At this temperature each of the others has a probability of e^-12 of the first one's.
    params = [SamplingParams(temperature=2.5)] * rows
    tokens = sample(logits, make_batch(params, list(range(rows)), vocab=V))
    mean = rows * (1 - 1 / (1 + V * math.exp(-12)))
    assert abs(int((tokens > 0).sum()) - mean) < 4 * math.sqrt(mean)
    assert gumbel(torch.arange(64), torch.zeros(64, dtype=torch.int64), torch.arange(V)).max() > 13
