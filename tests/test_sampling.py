"""The sampler: parameters, distributions against exact probabilities, seeds and batches."""

import math

import pytest
import torch

from litellama.errors import RequestError
from litellama.sampling import SamplingParams, sample, truncate, uniform

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
    ("max_tokens", 0),
    ("max_tokens", True),
    ("seed", -1),
    ("seed", 2**63),
    ("seed", 1.5),
    ("stop", ("",)),
    ("stop", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda v: str(v))
def test_parameters_out_of_range_are_refused_with_their_name_and_value(name, value):
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert repr(value) in str(caught.value)


def test_one_stop_string_or_several():
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def draw_many(logits: torch.Tensor, params: SamplingParams, count: int) -> torch.Tensor:
    """Frequencies [vocab] of ``count`` draws from one row of logits, at steps 0, 1, 2, ..."""
    tokens = sample(
        logits.repeat(count, 1), [params] * count, [12345] * count, range(count), [[]] * count
    )
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
    freedom = int(possible.sum()) - 1
    if freedom == 0:
        return
    statistic = count * ((seen - expected)[possible].square() / expected[possible]).sum()
    # Wilson and Hilferty's approximation of the chi-squared quantile at z = 4.75
    limit = freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def test_greedy_rows_and_sampled_rows_share_a_batch():
    logits = torch.randn(4, 50)
    params = [SamplingParams(temperature=t) for t in (0.0, 1.0, 0.0, 5.0)]
    tokens = sample(logits.clone(), params, [1, 2, 3, 4], [0, 0, 0, 0], [[]] * 4)
    assert tokens[0] == logits[0].argmax()
    assert tokens[2] == logits[2].argmax()


def test_a_draw_depends_on_seed_and_step_and_not_on_the_batch():
    logits = torch.randn(1, 1000)
    params = SamplingParams(top_p=0.95)
    others = torch.randn(3, 1000)
    alone = [sample(logits.clone(), [params], [7], [step], [[]]).item() for step in range(20)]
    for step, token in enumerate(alone):
        together = sample(
            torch.cat([others, logits]), [SamplingParams(temperature=0)] * 3 + [params],
            [1, 2, 3, 7], [9, 9, 9, step], [[]] * 4,
        )  # fmt: skip
        assert together[3] == token
    other_seed = [sample(logits.clone(), [params], [8], [step], [[]]).item() for step in range(20)]
    assert other_seed != alone


def test_repetition_penalty_pushes_seen_tokens_down_whatever_their_sign():
    logits = torch.tensor([[2.0, -1.0, 1.9, -3.0]])
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert sample(logits, [params], [0], [0], [[0, 1, 0]]).item() == 2
    torch.testing.assert_close(logits, torch.tensor([[1.0, -2.0, 1.9, -3.0]]))


def test_the_likeliest_token_survives_every_filter():
    probabilities = torch.softmax(torch.randn(5, 100), -1)
    params = [SamplingParams(top_k=1), SamplingParams(top_p=1e-9), SamplingParams(min_p=1.0)]
    params += [SamplingParams(top_k=1, top_p=1e-9, min_p=1.0), SamplingParams()]
    kept = truncate(probabilities, params)
    assert torch.equal(kept.argmax(-1), probabilities.argmax(-1))
    assert (kept[:4] > 0).sum(-1).tolist() == [1, 1, 1, 1]
    assert torch.equal(kept[4], probabilities[4])


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30]])
    params = [SamplingParams(temperature=1e-6), SamplingParams(temperature=1e6)]
    tokens = sample(logits, params, [0, 1], [0, 0], [[], []])
    assert tokens[0] == 0


def test_uniform_numbers_look_uniform_and_unrelated():
    n = 100_000
    steps = torch.arange(n)
    by_step = uniform(torch.full((n,), 42), steps)
    by_seed = uniform(steps, torch.zeros(n, dtype=torch.int64))
    for u in (by_step, by_seed):
        assert 0 <= u.min() < 1e-3
        assert 1 - 1e-3 < u.max() < 1
        deviation = (u.sort().values - (steps + 0.5) / n).abs().max()
        assert deviation < 5.2 / math.sqrt(n) / 2, "Kolmogorov-Smirnov, about one in 10^5"
        correlation = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
        assert correlation.abs() < 5 / math.sqrt(n)
