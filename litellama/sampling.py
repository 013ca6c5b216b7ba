"""SamplingParams, and the sampler that turns logits into the next tokens.

Every request brings its own settings, and one call serves a batch of them: penalties, then the
temperature, then top-k, top-p and min-p, then the draw.  What is random in a request's step depends
on its seed, the step and the token alone, so its text does not depend on what else is in the batch.
Source of top-k: Fan et al., "Hierarchical Neural Story Generation", 2018, arXiv:1805.04833; of
top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751; of
min-p: Nguyen et al., 2024, arXiv:2407.01082.  Lesson 14 builds this file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from litellama import kernels
from litellama.errors import RequestError
from litellama.kernels.sample import threshold


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop; the values are checked when it is made.

    temperature: divides the logits; 0 takes the likeliest token (greedy).
    top_k: keep the k likeliest tokens, and those as likely as the k-th; 0 keeps all.
    top_p: keep the smallest set of likeliest tokens whose share of what top_k left reaches p.
    min_p: drop tokens less likely than min_p times the likeliest.
    repetition_penalty: above 1 makes tokens of the prompt and answer so far less likely.
    presence_penalty: taken from the logit of every token that the answer has so far.
    frequency_penalty: taken from the logit of a token once for each time the answer has it.
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
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
        number("presence_penalty", "a number from -2 to 2", lambda p: -2 <= p <= 2)
        number("frequency_penalty", "a number from -2 to 2", lambda p: -2 <= p <= 2)
        number("max_tokens", "an integer from 1 up", lambda n: n >= 1, int)
        if self.seed is not None:
            number("seed", "an integer from 0 to 2^63 - 1, or None", lambda s: 0 <= s < 2**63, int)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or not all(isinstance(s, str) and s for s in stop):
            raise RequestError(
                f"stop must be a string or several, none of them empty, got {self.stop!r}"
            )
        object.__setattr__(self, "stop", tuple(stop))
        if not isinstance(self.ignore_eos, bool):
            raise RequestError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")

    def _number(self, name: str, what: str, valid: Any, kind: Any = Real) -> None:
        value = getattr(self, name)
        if hasattr(value, "item"):  # numpy's numbers
            value = value.item()
        try:
            right = isinstance(value, kind) and not isinstance(value, bool)
            right = right and math.isfinite(value) and valid(value)
        except OverflowError:  # an integer larger than every float
            right = False
        if not right:
            raise RequestError(f"{name} must be {what}, got {value!r}")
        object.__setattr__(self, name, value)

    @property
    def filters(self) -> bool:
        """Whether top-k, top-p or min-p may drop a token."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def penalises(self) -> bool:
        """Whether any penalty changes a logit."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


GREEDY = SamplingParams(temperature=0.0)


class SamplingBatch:
    """The settings of up to ``size`` requests as tensors, a row a request, for one ``sample`` call.

    The tensors stay where they are when ``fill`` writes other requests into them and ``advance``
    goes to the next step, so a CUDA graph that holds ``sample`` and ``advance`` reads new values.
    Two flags choose what is launched, and so belong to the graph: ``filters``, whether any request
    uses top-k, top-p or min-p, and ``penalties``, whether any uses a penalty.

    temperature, top_p, min_p, repetition, presence, frequency: float32 [size]; top_k, seeds, steps:
    int64 [size], steps being the number of tokens generated.  counts: int32 [size, vocab_size], as
    ``kernels.penalize`` wants them, made when a penalty is first used.
    """

    def __init__(self, size: int, vocab_size: int, device: torch.device | str = "cpu") -> None:
        self.size, self.vocab_size = size, vocab_size
        # Every row of these begins at a multiple of 16 bytes, whatever the size: Triton would
        # compile the kernels again for addresses that do not.
        width = (size + 3) // 4 * 4
        self._floats = torch.zeros(6, width, dtype=torch.float32, device=device)
        self._integers = torch.zeros(3, width, dtype=torch.int64, device=device)
        self.temperature, self.top_p, self.min_p = self._floats[:3, :size]
        self.repetition, self.presence, self.frequency = self._floats[3:, :size]
        self.top_k, self.seeds, self.steps = self._integers[:, :size]
        self.counts: torch.Tensor | None = None
        self.fill([], [], [], [], [])

    def fill(
        self,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        steps: Sequence[int],
        texts: Sequence[Sequence[int]],
        prompt_lens: Sequence[int],
    ) -> None:
        """Write n requests into the first n rows; the others become greedy ones, which cost least.

        texts: each request's prompt and answer so far, of which only penalties take notice, so a
        token that is still on its way may be missing unless its request has one; prompt_lens: how
        many of those tokens are the prompt.
        """
        self.filters = any(p.filters for p in params)
        self.penalties = any(p.penalises for p in params)
        spare = self._floats.shape[1] - len(params)
        rows = [*params, *[GREEDY] * spare]
        floats = [
            # Beyond these bounds it is greedy, or uniform, all the same; float32 has bounds, too.
            [min(max(p.temperature, 1e-30), 1e30) if p.temperature else 0.0 for p in rows],
            [p.top_p for p in rows],
            [p.min_p for p in rows],
            [p.repetition_penalty for p in rows],
            [p.presence_penalty for p in rows],
            [p.frequency_penalty for p in rows],
        ]
        top_k = [min(p.top_k, self.vocab_size) for p in rows]
        integers = [top_k, [*seeds, *[0] * spare], [*steps, *[0] * spare]]
        self._copy(self._floats, floats)
        self._copy(self._integers, integers)
        if self.penalties:
            self._count(params, texts, prompt_lens)

    def advance(self, tokens: torch.Tensor) -> None:
        """Go to the next step: ``tokens`` int64 [n] have been sampled for the first n rows."""
        self.steps[: len(tokens)] += 1
        if self.penalties:
            self.count(torch.arange(len(tokens), device=tokens.device), tokens)

    def count(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Let penalties know that ``rows`` int64 [n] have generated ``tokens`` int64 [n]."""
        if self.counts is not None:
            places = rows * self.vocab_size + tokens
            self.counts.view(-1).index_add_(0, places, self.counts.new_full(tokens.shape, 2))

    def _copy(self, target: torch.Tensor, values: list[list[Any]]) -> None:
        source = torch.tensor(values, dtype=target.dtype)
        if target.is_cuda:
            source = source.pin_memory()  # so that the host need not wait for the copy
        target.copy_(source, non_blocking=True)

    def _count(
        self,
        params: Sequence[SamplingParams],
        texts: Sequence[Sequence[int]],
        prompt_lens: Sequence[int],
    ) -> None:
        device = self._floats.device
        if self.counts is None:
            shape = (self.size, self.vocab_size)
            self.counts = torch.zeros(shape, dtype=torch.int32, device=device)
        for row, (p, text, start) in enumerate(zip(params, texts, prompt_lens, strict=True)):
            if p.penalises:
                tokens = torch.tensor(text, device=device)
                counts = self.counts[row].zero_()
                counts[tokens[:start]] = 1
                counts.index_add_(0, tokens[start:], counts.new_full((len(text) - start,), 2))


def sample(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """The next tokens: int64 [n] from ``logits`` [n, vocab], by the first n rows of ``batch``.

    float32 logits are changed in place by penalties; of half precision ones a copy is.
    """
    n = len(logits)
    if batch.penalties:
        logits = logits.float()  # a penalty can be finer than a half precision's steps
    penalize(logits, batch)
    return kernels.sample(
        logits, batch.temperature[:n], batch.top_k[:n], batch.top_p[:n], batch.min_p[:n],
        batch.seeds[:n], batch.steps[:n], filters=batch.filters,
    )  # fmt: skip


def penalize(logits: torch.Tensor, batch: SamplingBatch) -> None:
    """Apply the penalties of the first n rows of ``batch`` to logits [n, vocab], in place."""
    n = len(logits)
    if batch.penalties and batch.counts is not None:
        kernels.penalize(
            logits, batch.counts[:n], batch.repetition[:n], batch.presence[:n], batch.frequency[:n]
        )


@dataclass(frozen=True)
class Candidate:
    """A token that could come next.

    probability: what the model gives it, the softmax of its logit.  chance: with what probability
    it is drawn, after penalties, temperature and truncation; 0 if dropped.
    """

    token_id: int
    probability: float
    chance: float


def candidates(
    logits: torch.Tensor,
    params: SamplingParams,
    count: int = 10,
    text: Sequence[int] = (),
    prompt_len: int = 0,
) -> list[Candidate]:
    """The ``count`` likeliest tokens of logits [vocab], the likeliest first, as a reader sees them.

    text, prompt_len: prompt and answer so far, and how much of it is the prompt; for penalties.
    """
    probabilities = torch.softmax(logits.float(), -1)
    batch = SamplingBatch(1, len(logits), logits.device)
    batch.fill([params], [0], [len(text) - prompt_len], [text], [prompt_len])
    chances = distribution(logits[None].float().clone(), batch)[0]
    top = probabilities.topk(min(count, len(logits))).indices
    columns = (top.tolist(), probabilities[top].tolist(), chances[top].tolist())
    return [Candidate(*values) for values in zip(*columns, strict=True)]


def distribution(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """The probabilities that ``sample`` draws from: float32 [n, vocab], by the definition.

    The logits are changed in place by penalties.
    """
    n = len(logits)
    penalize(logits, batch)
    greedy = batch.temperature[:n] == 0
    # A greedy row is the limit of a temperature towards 0, and of the largest the first.
    T = batch.temperature[:n].masked_fill(greedy, 1.0)[:, None]
    filters = (batch.top_k[:n, None], batch.top_p[:n, None], batch.min_p[:n, None])
    kept = logits.masked_fill(logits < threshold(logits, T, *filters), -torch.inf)
    shifted = kept - kept.max(-1, keepdim=True).values  # so that a tiny temperature cannot overflow
    chances = torch.softmax(shifted / T, -1)
    likeliest = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])
    return torch.where(greedy[:, None], likeliest.to(chances.dtype), chances)
