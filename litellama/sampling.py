"""SamplingParams, and the sampler that turns logits into the next tokens.

Every request brings its own settings, and one call serves a batch of them.  A request's random
number at step i depends on its seed and i alone, so its text does not depend on what else is in the
batch.  Source of top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019,
arXiv:1904.09751; of min-p: Nguyen et al., 2024, arXiv:2407.01082; of the repetition penalty: Keskar
et al., "CTRL", 2019, arXiv:1909.05858.  Lesson 14 builds this file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from litellama.errors import RequestError


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop; the values are checked when it is made.

    temperature: divides the logits; 0 takes the likeliest token (greedy).
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the smallest set of likeliest tokens whose probabilities reach p.
    min_p: drop tokens less likely than min_p times the likeliest.
    repetition_penalty: above 1 makes tokens of the prompt and answer so far less likely.
    max_tokens: the most tokens to generate.
    stop: a string or several; the text ends before the first one that appears.
    seed: the same seed gives the same text; None draws one from torch's global generator.
    ignore_eos: go on past the end-of-text token (for benchmarks).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 128
    stop: str | Sequence[str] = ()
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        number = self._number
        number("temperature", "a number from 0 up", lambda t: t >= 0)
        number("top_k", "an integer from 0 up (0 keeps all tokens)", lambda k: k >= 0, int)
        number("top_p", "a number above 0 and up to 1", lambda p: 0 < p <= 1)
        number("min_p", "a number from 0 to 1", lambda p: 0 <= p <= 1)
        number("repetition_penalty", "a number above 0 (1 does nothing)", lambda p: p > 0)
        number("max_tokens", "an integer from 1 up", lambda n: n >= 1, int)
        if self.seed is not None:
            number("seed", "an integer from 0 to 2^63 - 1, or None", lambda s: 0 <= s < 2**63, int)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or not all(isinstance(s, str) and s for s in stop):
            raise RequestError(
                f"stop must be a string or several, none of them empty, got {self.stop!r}"
            )
        object.__setattr__(self, "stop", tuple(stop))

    def _number(self, name: str, what: str, valid: Any, kind: Any = (int, float)) -> None:
        value = getattr(self, name)
        right_type = isinstance(value, kind) and not isinstance(value, bool)
        if not (right_type and math.isfinite(value) and valid(value)):
            raise RequestError(f"{name} must be {what}, got {value!r}")


def sample(
    logits: torch.Tensor,
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    steps: Sequence[int],
    seen: Sequence[Sequence[int]],
) -> torch.Tensor:
    """The next token of each request: int64 [n].

    logits: float32 [n, vocab], changed in place by a repetition penalty.  seeds, steps: each
    request's seed and how many tokens it has generated.  seen: its prompt and answer so far.
    """
    for row, (p, tokens) in enumerate(zip(params, seen, strict=True)):
        if p.repetition_penalty != 1.0:
            penalize(logits[row], tokens, p.repetition_penalty)
    greedy = logits.argmax(-1)
    if all(p.temperature == 0 for p in params):
        return greedy
    device = logits.device
    # A greedy row is sampled too, at temperature 1, and its sample is not used.
    temperature = torch.tensor([p.temperature for p in params], device=device)
    is_greedy = temperature == 0
    # Shifted first, so that a tiny temperature cannot overflow: the largest logit becomes 0.
    shifted = logits - logits.max(-1, keepdim=True).values
    probabilities = torch.softmax(shifted / temperature.masked_fill(is_greedy, 1.0)[:, None], -1)
    probabilities = truncate(probabilities, params)
    draws = uniform(torch.tensor(seeds, device=device), torch.tensor(steps, device=device))
    return torch.where(is_greedy, greedy, draw(probabilities, draws))


def penalize(logits: torch.Tensor, tokens: Sequence[int], penalty: float) -> None:
    """Divide positive logits [vocab] of ``tokens`` by the penalty, multiply negative ones."""
    index = torch.tensor(sorted(set(tokens)), device=logits.device)
    values = logits[index]
    logits[index] = torch.where(values > 0, values / penalty, values * penalty)


def truncate(probabilities: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Zero the tokens that top-k, top-p and min-p drop, in that order: [n, vocab].

    The result is not scaled to sum to 1.  The likeliest token is always kept.  Top-p measures the
    mass that top-k left.
    """
    if all(p.top_k == 0 and p.top_p == 1.0 and p.min_p == 0.0 for p in params):
        return probabilities
    vocab = probabilities.shape[-1]

    def column(values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, device=probabilities.device)[:, None]

    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocab, device=probabilities.device)
    ordered = ordered.masked_fill(rank >= column([p.top_k or vocab for p in params]), 0.0)
    mass_before = ordered.cumsum(-1) - ordered
    top_p = column([p.top_p for p in params])
    # top_p = 1 keeps everything, also where rounding brings the sum to 1 early
    dropped = (top_p < 1) & (mass_before >= top_p * ordered.sum(-1, keepdim=True))
    dropped |= ordered < column([p.min_p for p in params]) * ordered[:, :1]
    dropped[:, 0] = False
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(dropped, 0.0))


def draw(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Inverse-transform sampling: the token in whose share of [0, 1) each draw falls; int64 [n].

    probabilities: [n, vocab], not necessarily summing to 1; draws: [n] in [0, 1).
    """
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[:, -1:]
    # right=True: a draw of exactly 0 must not fall on a leading token of probability 0
    token = torch.searchsorted(cumulative, draws[:, None] * total, right=True)[:, 0]
    return token.clamp(max=probabilities.shape[-1] - 1)


def uniform(seeds: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """A float64 in [0, 1) for each (seed, step) pair of int64 tensors [n].

    A counter-based generator: the splitmix64 mixing function of Steele, Lea and Flood, "Fast
    Splittable Pseudorandom Number Generators", 2014, of the seed and then of the step.
    """
    bits = mix64(mix64(seeds) + steps)
    return shift_right(bits, 11).double() * 2.0**-53


def mix64(x: torch.Tensor) -> torch.Tensor:
    """splitmix64 of int64 values, with wrap-around arithmetic."""
    x = x - 7046029254386353131  # + 0x9E3779B97F4A7C15 as a signed number
    x = (x ^ shift_right(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ shift_right(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ shift_right(x, 31)


def shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift right; torch's own shift of int64 copies the sign bit in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
