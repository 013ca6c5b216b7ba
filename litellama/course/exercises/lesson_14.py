"""Exercises of lesson 14: penalties, filters, a threshold without a sort, stops, and a test."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from litellama.course.exercise import TOLERANCE, Case, Exercise, Maker, Mistake
from litellama.kernels.sample import gumbel

LESSON = "14_sampling"


# --- penalties -----------------------------------------------------------------------------------


def penalties(
    logits: torch.Tensor,
    prompt: torch.Tensor,
    answer: torch.Tensor,
    repetition: float,
    presence: float,
    frequency: float,
) -> torch.Tensor:
    V = len(logits)
    times = torch.bincount(answer, minlength=V)
    said = (times + torch.bincount(prompt, minlength=V)) > 0
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    x = torch.where(said, repeated, logits)
    return x - presence * (times > 0) - frequency * times


def _penalised(
    V: int, prompt: list[int], answer: list[int], repetition: float, presence: float, often: float
):
    def make(m: Maker):
        ids = (torch.tensor(prompt, dtype=torch.int64), torch.tensor(answer, dtype=torch.int64))
        return (m.normal(V, scale=3.0), *ids, repetition, presence, often)

    return make


def _always_divided(logits, prompt, answer, repetition, presence, frequency):
    zero = penalties(logits, prompt, answer, 1.0, presence, frequency) - logits
    said = torch.zeros_like(logits, dtype=torch.bool)
    said[prompt], said[answer] = True, True
    return torch.where(said, logits / repetition, logits) + zero


def _once_for_each_time(logits, prompt, answer, repetition, presence, frequency):
    x = logits.clone()
    for token in (*prompt.tolist(), *answer.tolist()):
        x[token] = x[token] / repetition if x[token] > 0 else x[token] * repetition
    times = torch.bincount(answer, minlength=len(logits))
    return x - presence * (times > 0) - frequency * times


def _repetition_last(logits, prompt, answer, repetition, presence, frequency):
    x = penalties(logits, prompt[:0], answer, 1.0, presence, frequency)
    return penalties(x, prompt, answer, repetition, 0.0, 0.0)


PENALTIES = Exercise(
    name="penalties",
    lesson=LESSON,
    title="Said before",
    difficulty=2,
    minutes=15,
    reference=penalties,
    outputs=("penalised",),
    cases=(
        Case("repetition alone", _penalised(12, [1, 4, 4, 7], [2, 9], 1.3, 0.0, 0.0)),
        Case("presence alone", _penalised(12, [1, 4], [2, 9, 9], 1.0, 0.7, 0.0)),
        Case("frequency alone", _penalised(12, [1, 4], [2, 9, 9, 9], 1.0, 0.0, 0.4)),
        Case("all three", _penalised(37, [0, 5, 5, 36], [5, 8, 8, 11, 36], 1.5, 0.6, 0.2)),
        Case("nothing generated yet", _penalised(9, [3, 3, 5], [], 1.2, 0.5, 0.5)),
        Case("a reward", _penalised(15, [2], [3, 3, 6], 0.8, -0.5, -0.3)),
    ),
    mistakes=(
        Mistake(
            "negative logits divided",
            _always_divided,
            "the repetition penalty divides every logit. Dividing a negative one brings it nearer "
            "to 0, which makes the token likelier: multiply there.",
        ),
        Mistake(
            "repetition once for each time",
            _once_for_each_time,
            "the repetition penalty is applied again for each time that a token occurs. It counts "
            "whether a token was said; how often is the matter of the frequency penalty.",
        ),
        Mistake(
            "prompt in presence and frequency",
            lambda x, prompt, answer, r, a, b: penalties(
                x, prompt, torch.cat([prompt, answer]), r, a, b
            ),
            "presence and frequency count the prompt too. They look at the answer only; "
            "repetition looks at both.",
        ),
        Mistake(
            "repetition without the prompt",
            lambda x, prompt, answer, r, a, b: penalties(x, prompt[:0], answer, r, a, b),
            "the repetition penalty leaves the prompt out: it counts tokens of the prompt and of "
            "the answer.",
        ),
        Mistake(
            "frequency once",
            lambda x, prompt, answer, r, a, b: penalties(
                penalties(x, prompt, answer, r, a, 0.0), prompt, answer.unique(), 1.0, 0.0, b
            ),
            "the frequency penalty is taken once from each token. It is taken once for each time: "
            "an indexed subtraction, x[answer] -= b, does the same element only once.",
        ),
        Mistake(
            "presence for each time",
            lambda x, prompt, answer, r, a, b: penalties(x, prompt, answer, r, 0.0, a + b),
            "the presence penalty is taken once for each time that a token occurs in the answer. "
            "It asks whether a token was said; how often is the frequency penalty's question.",
        ),
        Mistake(
            "repetition last",
            _repetition_last,
            "presence and frequency are taken away first, and the repetition penalty scales what "
            "is left. The repetition penalty comes first.",
        ),
    ),
    hints=(
        "Count first: times = torch.bincount(answer, minlength=len(logits)) says how often each "
        "token was generated.",
        "said: a boolean for each token, from prompt and answer together. torch.where chooses "
        "between the penalised logit and the old one.",
        "Where said: logits / repetition if positive, logits * repetition if not. Then subtract "
        "presence * (times > 0) and frequency * times.",
    ),
)


# --- chances -------------------------------------------------------------------------------------


def chances(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> torch.Tensor:
    weights = torch.softmax(logits / temperature, -1)
    ordered, order = weights.sort(descending=True)
    if top_k > 0:
        ordered[top_k:] = 0.0
    before = ordered.cumsum(0) - ordered
    ordered[before >= top_p * ordered.sum()] = 0.0
    ordered[ordered < min_p * ordered[0]] = 0.0
    out = torch.zeros_like(weights)
    out[order] = ordered / ordered.sum()
    return out


def _filters(V: int, temperature: float, top_k: int, top_p: float, min_p: float):
    return lambda m: (m.normal(V, scale=2.0), temperature, top_k, top_p, min_p)


def _crossing_dropped(logits, temperature, top_k, top_p, min_p):
    weights = chances(logits, temperature, top_k, 1.0, 0.0)
    ordered, order = weights.sort(descending=True)
    if top_p < 1:
        ordered[ordered.cumsum(0) > top_p] = 0.0
    ordered[ordered < min_p * ordered[0]] = 0.0
    out = torch.zeros_like(weights)
    out[order] = ordered / ordered.sum()
    return out


def _cut_before_temperature(logits, temperature, top_k, top_p, min_p):
    kept = chances(logits, 1.0, top_k, top_p, min_p) > 0
    return torch.softmax((logits / temperature).masked_fill(~kept, -torch.inf), -1)


def _p_of_everything(logits, temperature, top_k, top_p, min_p):
    by_p = chances(logits, temperature, 0, top_p, min_p) > 0
    by_k = chances(logits, temperature, top_k, 1.0, min_p) > 0
    kept = by_p & by_k
    return torch.softmax((logits / temperature).masked_fill(~kept, -torch.inf), -1)


def _absolute_min_p(logits, temperature, top_k, top_p, min_p):
    weights = chances(logits, temperature, top_k, top_p, 0.0)
    weights = weights * (weights >= min_p)
    return weights / weights.sum()


def _not_normalised(logits, temperature, top_k, top_p, min_p):
    kept = chances(logits, temperature, top_k, top_p, min_p) > 0
    return torch.softmax(logits / temperature, -1) * kept


CHANCES = Exercise(
    name="chances",
    lesson=LESSON,
    title="What the draw draws from",
    difficulty=3,
    minutes=25,
    reference=chances,
    outputs=("probabilities",),
    cases=(
        Case("temperature alone", _filters(10, 0.7, 0, 1.0, 0.0)),
        Case("top-k alone", _filters(12, 1.0, 3, 1.0, 0.0)),
        Case("top-p alone", _filters(40, 1.0, 0, 0.8, 0.0)),
        Case("min-p alone", _filters(40, 1.0, 0, 1.0, 0.1)),
        Case("top-p, hot", _filters(60, 1.8, 0, 0.7, 0.0)),
        Case("top-p, cold", _filters(60, 0.4, 0, 0.9, 0.0)),
        Case("a very small top-p", _filters(20, 1.0, 0, 0.01, 0.0)),
        Case("top-k and top-p", _filters(60, 1.5, 8, 0.6, 0.0)),
        Case("all together", _filters(100, 1.3, 20, 0.85, 0.2)),
        Case("top-k beyond the vocabulary", _filters(7, 1.0, 50, 1.0, 0.0)),
    ),
    mistakes=(
        Mistake(
            "crossing token dropped",
            _crossing_dropped,
            "the token with which the share reaches top_p is dropped. It belongs to the nucleus: "
            "drop a token if the share *before* it has reached top_p already.",
        ),
        Mistake(
            "cut before the temperature",
            _cut_before_temperature,
            "the filters look at the probabilities at temperature 1. The temperature comes first, "
            "and the filters see what it leaves.",
        ),
        Mistake(
            "top-p of everything",
            _p_of_everything,
            "top_p is taken of all the probability. After top_k it is a share of what top_k left, "
            "so divide by its sum, or multiply top_p by it.",
        ),
        Mistake(
            "min-p absolute",
            _absolute_min_p,
            "min_p is used as a probability. It is a share of the likeliest token's: drop what is "
            "below min_p * max.",
        ),
        Mistake(
            "not normalised",
            _not_normalised,
            "what is left does not sum to 1: divide by its sum at the end.",
        ),
        Mistake(
            "temperature multiplied",
            lambda x, temperature, k, p, m: chances(x, 1 / temperature, k, p, m),
            "the logits are multiplied by the temperature. They are divided by it.",
        ),
        Mistake(
            "left in sorted order",
            lambda x, T, k, p, m: chances(x, T, k, p, m).sort(descending=True).values,
            "these are the right numbers in descending order. Put each back at its token: "
            "out[order] = ordered.",
        ),
    ),
    hints=(
        "In this order: softmax of logits / temperature, sort, top-k, top-p, min-p, divide by the "
        "sum, put back.",
        "With the probabilities in descending order, cumsum(0) - ordered is the share before each "
        "token. Which tokens go is a comparison with top_p times the sum of what is left.",
        "ordered[top_k:] = 0 if top_k > 0; ordered[before >= top_p * ordered.sum()] = 0; "
        "ordered[ordered < min_p * ordered[0]] = 0.",
        "out = torch.zeros_like(logits); out[order] = ordered / ordered.sum().",
    ),
)


# --- top_p_threshold -----------------------------------------------------------------------------


def top_p_threshold(x: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    ordered = x.sort(-1, descending=True).values
    shares = torch.softmax(ordered / temperature, -1).cumsum(-1)
    reached = (shares < top_p).sum(-1, keepdim=True).clamp_max(x.shape[-1] - 1)
    return ordered.gather(-1, reached)[:, 0]


def _rows(M: int, N: int, temperature: float, top_p: float, mean: float = 0.0):
    return lambda m: (m.normal(M, N, scale=2.0, mean=mean), temperature, top_p)


def _next_higher(x, temperature, top_p):
    """The logit above the right one; where that is the maximum, the maximum."""
    cut = top_p_threshold(x, temperature, top_p)[:, None]
    above = x.masked_fill(x <= cut, torch.inf).amin(-1)
    return torch.minimum(above, x.amax(-1))


def _lanes_of_zero(x, temperature, top_p):
    N = x.shape[-1]
    lanes = (1 << (N - 1).bit_length()) - N
    return top_p_threshold(torch.nn.functional.pad(x, (0, lanes)), temperature, top_p)


def _share_of_the_count(x, temperature, top_p):
    N = x.shape[-1]
    return x.sort(-1, descending=True).values[:, math.ceil(top_p * N) - 1]


def _next_float(direction: float, where_maximum: bool = False):
    """The neighbour of the right float32; with where_maximum only where that is the maximum."""

    def mistaken(x, temperature, top_p):
        cut = top_p_threshold(x, temperature, top_p)
        next_to_it = torch.nextafter(cut, torch.full_like(cut, direction))
        return torch.where(cut == x.amax(-1), next_to_it, cut) if where_maximum else next_to_it

    return mistaken


TOP_P_THRESHOLD = Exercise(
    name="top_p_threshold",
    lesson=LESSON,
    title="A threshold without a sort",
    difficulty=4,
    minutes=35,
    reference=top_p_threshold,
    outputs=("threshold",),
    tolerance=TOLERANCE | {torch.float32: 0.0},  # it is a logit of the row, or it is none
    cases=(
        Case("rows of a power of two", _rows(4, 64, 1.0, 0.8)),
        Case("rows of 37", _rows(5, 37, 1.0, 0.9), ragged=True),
        Case("one token", _rows(2, 1, 1.0, 0.5), ragged=True),
        Case("negative logits only", _rows(3, 50, 1.0, 0.7, mean=-12.0), ragged=True),
        Case("large logits", _rows(3, 50, 1.0, 0.7, mean=60.0), ragged=True),
        Case("hot", _rows(3, 300, 2.0, 0.6), ragged=True),
        Case("cold", _rows(3, 300, 0.5, 0.95), ragged=True),
        Case("nearly everything", _rows(2, 100, 1.5, 0.999), ragged=True),
        Case("the likeliest alone", _rows(3, 40, 1.0, 0.02), ragged=True),
    ),
    mistakes=(
        Mistake(
            "crossing token dropped",
            _next_higher,
            "the threshold is one logit too high. The largest t is wanted whose mass still "
            "reaches p of the whole: where mass >= need, t may rise, so low = middle.",
        ),
        Mistake(
            "masked lanes hold zero",
            _lanes_of_zero,
            "the lanes beyond the row take part as logits of 0. Load other=-float('inf').",
        ),
        Mistake(
            "temperature forgotten",
            lambda x, temperature, top_p: top_p_threshold(x, 1.0, top_p),
            "the weights are taken at temperature 1: exp((x - maximum) / temperature).",
        ),
        Mistake(
            "whole not summed",
            lambda x, temperature, top_p: x.amax(-1),
            "the threshold is always the maximum. The weights are not divided by their sum, and "
            "the maximum's is 1: what is needed is top_p times the sum of all weights.",
        ),
        Mistake(
            "sides exchanged",
            lambda x, temperature, top_p: x.amin(-1),
            "the threshold is always the smallest logit: is low moved where high should be? Where "
            "the mass reaches what is needed, low = middle, else high = middle.",
        ),
        Mistake(
            "share of the tokens",
            _share_of_the_count,
            "p of the number of tokens is kept. Add up their weights, not their number.",
        ),
        Mistake(
            "high for low",
            _next_float(torch.inf),
            "the threshold is the float32 next above the right one, and no logit reaches it. In "
            "the end low has the mass and high has not: store logit_of(low).",
        ),
        Mistake(
            "greater for at least",
            _next_float(-torch.inf),
            "the threshold is the float32 next below the right one, and no logit of the row. The "
            "mass is that of x >= logit_of(middle), not of x > logit_of(middle).",
        ),
        Mistake(
            "high at the maximum",
            _next_float(-torch.inf, where_maximum=True),
            "the threshold never gets to the maximum, only next to it. high has to start where "
            "the mass surely is too small: key_of(maximum) + 1.",
        ),
        Mistake(
            "temperature multiplied",
            lambda x, temperature, top_p: top_p_threshold(x, 1 / temperature, top_p),
            "the logits are multiplied by the temperature. They are divided by it.",
        ),
    ),
    hints=(
        "Load the row once, with -inf in the masked lanes. weights = exp((x - maximum) / "
        "temperature), and need = top_p * their sum.",
        "low = key_of(...) of a logit that surely has the mass (minus infinity has), high = "
        "key_of(maximum) + 1, which surely has not. Halve while high - low > 1.",
        "mass = tl.sum(tl.where(x >= logit_of(middle), weights, 0.0), axis=0). If mass >= need, "
        "low = middle, else high = middle.",
        "Keys may be negative: middle = low + (high - low) // 2. At the end store logit_of(low).",
    ),
)


# --- settled -------------------------------------------------------------------------------------


def settled(text: str, stops: tuple[str, ...]) -> int:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return min(found)
    held = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return len(text) - max(held, default=0)


def _text(label: str, text: str, *stops: str) -> Case:
    return Case(label, lambda m: (text, stops))


def _nothing_held(text, stops):
    return min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))


def _always_held(text, stops):
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    longest = max((len(stop) for stop in stops), default=1)
    return min(found) if found else max(len(text) - (longest - 1), 0)


def _first_listed(text, stops):
    for stop in stops:
        if stop in text:
            return text.find(stop)
    return settled(text, stops)


def _stop_shown(text, stops):
    found = [text.find(stop) + len(stop) for stop in stops if stop in text]
    return min(found) if found else settled(text, stops)


def _shortest_held(text, stops):
    if any(stop in text for stop in stops):
        return settled(text, stops)
    held = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return len(text) - min(held, default=0)


def _last_found(text, stops):
    return min([text.rfind(stop) for stop in stops if stop in text], default=settled(text, stops))


def _ending_only(text, stops):
    held = [n for stop in stops for n in range(1, len(stop) + 1) if text.endswith(stop[:n])]
    return len(text) - max(held, default=0)


SETTLED = Exercise(
    name="settled",
    lesson=LESSON,
    title="How much may be shown?",
    difficulty=3,
    minutes=20,
    reference=settled,
    outputs=("characters",),
    cases=(
        _text("no stop strings", "hello world"),
        _text("far from any", "hello world", "END"),
        _text("a whole one", "one two END three", "END"),
        _text("the beginning of one", "one two EN", "END"),
        _text("a beginning that repeats", "xaba", "abac"),
        _text("two, the later listed first", "a. b! c", "!", "."),
        _text("two beginnings of different lengths", "so \nUs", "s!", "\nUser:"),
        _text("a beginning that broke off", "the EN is", "END"),
        _text("one at the very start", "END", "END"),
        _text("the same one twice", "a. b. c", "."),
        _text("an empty text", "", "END"),
        _text("one found, and a beginning after it", "yes. E", ".", "END"),
    ),
    mistakes=(
        Mistake(
            "nothing held back",
            _nothing_held,
            "an ending that is the beginning of a stop string is shown. It cannot be taken back "
            "once the rest of the stop string comes.",
        ),
        Mistake(
            "always held back",
            _always_held,
            "the last characters are always held back. Hold them only if they are the beginning "
            "of a stop string; else the stream lags for nothing.",
        ),
        Mistake(
            "first listed stop",
            _first_listed,
            "of several stop strings in the text, the one listed first is taken. The one that "
            "comes first in the text counts.",
        ),
        Mistake(
            "stop string shown",
            _stop_shown,
            "the stop string is shown too. The text ends before it.",
        ),
        Mistake(
            "shortest beginning held",
            _shortest_held,
            "the shortest ending that begins a stop string is held back, and a longer one does "
            "too: hold the longest.",
        ),
        Mistake(
            "last one found",
            _last_found,
            "a stop string that occurs twice ends the text at its last place. The first one "
            "counts: find, not rfind.",
        ),
        Mistake(
            "only the ending looked at",
            _ending_only,
            "only the ending of the text is looked at. A piece of text can hold a whole stop "
            "string with more behind it: look for that first.",
        ),
    ),
    hints=(
        "Two questions, one after the other: is a stop string in the text? If not, could the "
        "text's ending become one?",
        "text.find(stop) is where it begins, or -1. Of several, the smallest that is not -1.",
        "For each stop and each n below len(stop): if text.endswith(stop[:n]), n characters must "
        "wait. The largest such n counts.",
    ),
)


# --- judge_sampler -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """A sampler on trial: ``sampler(logits [V], temperature, top_p, seeds [n])`` -> tokens [n]."""

    name: str
    right: bool = field(repr=False)
    draw: Callable[..., torch.Tensor] = field(repr=False)

    def __call__(
        self, logits: torch.Tensor, temperature: float, top_p: float, seeds: torch.Tensor
    ) -> torch.Tensor:
        return self.draw(logits, temperature, top_p, seeds)


def _noise(logits: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    tokens = torch.arange(len(logits), device=logits.device)
    return gumbel(seeds, torch.zeros_like(seeds), tokens)


def _drawn(logits, temperature, kept, noise):
    return (logits + temperature * noise).masked_fill(~kept, -torch.inf).argmax(-1)


def _draw(logits, temperature, top_p, seeds):
    kept = chances(logits, temperature, 0, top_p, 0.0) > 0
    return _drawn(logits, temperature, kept, _noise(logits, seeds))


def _draw_without_crossing(logits, temperature, top_p, seeds):
    kept = _crossing_dropped(logits, temperature, 0, top_p, 0.0) > 0
    return _drawn(logits, temperature, kept, _noise(logits, seeds))


def _draw_cut_too_early(logits, temperature, top_p, seeds):
    kept = chances(logits, 1.0, 0, top_p, 0.0) > 0
    return _drawn(logits, temperature, kept, _noise(logits, seeds))


def _draw_noise_unscaled(logits, temperature, top_p, seeds):
    kept = chances(logits, temperature, 0, top_p, 0.0) > 0
    return _drawn(logits, 1.0, kept, _noise(logits, seeds))


def _draw_leaking(logits, temperature, top_p, seeds):
    """One draw in a thousand gives a token that top-p has dropped."""
    tokens = _draw(logits, temperature, top_p, seeds)
    dropped = (chances(logits, temperature, 0, top_p, 0.0) == 0).nonzero()[0]
    return torch.where(seeds % 997 == 5, dropped, tokens)


def _draw_coarse(logits, temperature, top_p, seeds):
    """The uniform numbers have 3 bits."""
    kept = chances(logits, temperature, 0, top_p, 0.0) > 0
    u = torch.exp(-torch.exp(-_noise(logits, seeds)))
    u = ((u * 8).floor() + 0.5) / 8
    return _drawn(logits, temperature, kept, -torch.log(-torch.log(u)))


def _draw_short_period(logits, temperature, top_p, seeds):
    return _draw(logits, temperature, top_p, seeds % 200)


def judge_sampler(sampler: Sampler, logits: torch.Tensor, temperature: float, top_p: float) -> int:
    return int(sampler.right)


def _on_trial(name: str, draw, V: int, temperature: float, top_p: float, scale: float = 1.5):
    right = draw is _draw
    return lambda m: (Sampler(name, right, draw), m.normal(V, scale=scale), temperature, top_p)


def chi_square_limit(freedom: int) -> float:
    """What chi-square exceeds by chance once in a million times (Wilson and Hilferty)."""
    spread = (2 / (9 * freedom)) ** 0.5
    return freedom * (1 - spread**2 + 4.75 * spread) ** 3


def _judge(sampler, logits, temperature, top_p, n=20_000, limit=chi_square_limit, dropped=True):
    seeds = torch.arange(n, device=logits.device)
    counts = torch.bincount(sampler(logits, temperature, top_p, seeds), minlength=len(logits))
    expected = n * chances(logits.double(), temperature, 0, top_p, 0.0)
    if dropped and counts[expected == 0].any():
        return 0
    counts, expected = counts[expected > 0].double(), expected[expected > 0]
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum().view(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().view(1)])
    used = expected > 0
    statistic = float(((counts - expected)[used].square() / expected[used]).sum())
    return int(statistic < limit(max(int(used.sum()) - 1, 1)))


def _judge_support(sampler, logits, temperature, top_p, n=20_000):
    seeds = torch.arange(n, device=logits.device)
    drawn = torch.bincount(sampler(logits, temperature, top_p, seeds), minlength=len(logits)) > 0
    return int(not (drawn & (chances(logits, temperature, 0, top_p, 0.0) == 0)).any())


def _judge_whole_softmax(sampler, logits, temperature, top_p, n=20_000):
    return _judge(lambda x, T, p, seeds: sampler(x, T, top_p, seeds), logits, temperature, 1.0, n)


JUDGE_SAMPLER = Exercise(
    name="judge_sampler",
    lesson=LESSON,
    title="Which sampler is wrong?",
    difficulty=5,
    minutes=45,
    reference=judge_sampler,
    outputs=("verdict",),
    cases=(
        Case("sampler A", _on_trial("A", _draw, 8, 1.0, 0.8)),
        Case("sampler B", _on_trial("B", _draw_without_crossing, 8, 1.0, 0.8)),
        Case("sampler C", _on_trial("C", _draw_cut_too_early, 12, 0.6, 0.8)),
        Case("sampler D", _on_trial("D", _draw_noise_unscaled, 12, 1.3, 0.9)),
        Case("sampler E", _on_trial("E", _draw, 40, 1.5, 1.0)),
        Case("sampler F", _on_trial("F", _draw_coarse, 10, 1.0, 0.97)),
        Case("sampler G", _on_trial("G", _draw, 200, 1.0, 1.0, scale=4.0)),
        Case("sampler H", _on_trial("H", _draw_short_period, 10, 1.0, 0.9)),
        Case("sampler I", _on_trial("I", _draw, 25, 0.7, 0.95)),
        Case("sampler J", _on_trial("J", _draw, 60, 2.0, 0.5)),
        Case("sampler K", _on_trial("K", _draw, 5, 1.0, 1.0)),
        Case("sampler L", _on_trial("L", _draw_leaking, 30, 1.2, 0.8)),
    ),
    mistakes=(
        Mistake(
            "only what may be drawn",
            _judge_support,
            "you look at *which* tokens come, not at how often. Some of these samplers draw from "
            "the right tokens with the wrong odds, and some leave out one that should come.",
        ),
        Mistake(
            "dropped tokens not looked at",
            partial(_judge, dropped=False),
            "you leave the tokens that should never come out of the sum, and do not look at them "
            "otherwise. A sampler that gives one of them now and then is wrong.",
        ),
        Mistake(
            "too few draws",
            partial(_judge, n=300),
            "some wrong samplers pass: with so few draws, chance alone explains their error. A "
            "deviation of a few percent needs thousands of draws to show.",
        ),
        Mistake(
            "too strict",
            partial(_judge, limit=lambda freedom: 0.8 * freedom),
            "right samplers are refused: chi-square is about as large as the number of bins even "
            "for them. Compare it with what chance reaches once in a million times.",
        ),
        Mistake(
            "odds without the cut",
            _judge_whole_softmax,
            "the counts are compared with the whole softmax. With top-p the odds are those of the "
            "nucleus, divided by its sum.",
        ),
        Mistake(
            "verdict inverted",
            lambda *arguments: 1 - _judge(*arguments),
            "every verdict is the opposite of the right one: 1 is for a right sampler, 0 for a "
            "wrong one.",
        ),
        Mistake(
            "all accepted",
            lambda *arguments: 1,
            "every sampler is accepted. Some of them are wrong.",
        ),
    ),
    hints=(
        "Draw 20,000 tokens with seeds torch.arange(20_000), and count them: "
        "torch.bincount(tokens, minlength=len(logits)). What is expected is 20,000 times "
        "nucleus_chances.",
        "First: if a token came that has a chance of 0, the verdict is 0. Leave those tokens out "
        "then, or you divide by zero.",
        "Add up the counts of all tokens of which fewer than 5 are expected, and what is expected "
        "of them, and use the two sums as one bin.",
        "statistic = ((counts - expected) ** 2 / expected).sum(), and the verdict is int(statistic "
        "< chi_square_limit(bins - 1)).",
    ),
)

EXERCISES = (PENALTIES, CHANCES, TOP_P_THRESHOLD, SETTLED, JUDGE_SAMPLER)
