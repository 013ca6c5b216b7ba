"""The whole engine against transformers, on equal work, in one run.

Equal means: the same weights in the same dtype on the same device, the same prompts as token ids,
the same number of new tokens with the end-of-text token ignored, greedy on both sides, the same
number of threads.  Repetitions alternate, so that a slow minute of the machine hits both sides.

Each repetition times two calls on fresh prompts: one that makes 1 token (the time to the first
token), and one that makes n.  A decode step then costs (seconds of n - seconds of 1) / (n - 1).
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from litellama.bench import machine
from litellama.errors import RequestError
from litellama.llm import LLM
from litellama.sampling import SamplingParams

Prompts = list[list[int]]
# Float32 engines add in different orders; logits this close are a tie that either may break.
TIE = 1e-3


@dataclass(frozen=True)
class Work:
    """What both sides do: ``batch`` prompts of ``prompt_tokens`` ids, ``new_tokens`` more each."""

    batch: int = 1
    prompt_tokens: int = 128
    new_tokens: int = 64
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"batch": 1, "prompt_tokens": 1, "new_tokens": 2, "repeats": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise RequestError(f"{name} must be at least {minimum}, got {getattr(self, name)}")


class Peer(Protocol):
    """One side of a comparison."""

    name: str

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        """Exactly ``new_tokens`` greedy token ids after each prompt."""


class Litellama:
    """This package's engine, through its front door."""

    name = "litellama"

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        return [list(output.token_ids) for output in self.llm.generate(prompts, params)]


class Transformers:
    """transformers as it comes: eager mode, its default attention and its dynamic cache."""

    name = "transformers"

    def __init__(self, folder: str, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        from transformers import GenerationConfig

        ids = torch.tensor(prompts, device=self.model.device)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0
        )
        # Nothing of the checkpoint's own generation settings: eos_token_id=None never stops.
        self.model.generation_config = config
        with torch.inference_mode():
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids))
        return out[:, ids.shape[1] :].tolist()

    def gap(self, ids: Sequence[int], a: int, b: int) -> float:
        """How far apart the logits of tokens ``a`` and ``b`` are after ``ids``."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids], device=self.model.device)).logits[0, -1]
        return abs(float(logits[a] - logits[b]))


@dataclass(frozen=True)
class Repetition:
    """One timing of one peer, in seconds."""

    first_token_s: float
    total_s: float
    new_tokens: int

    @property
    def step_s(self) -> float:
        """Seconds of one decode step (one token for every sequence of the batch)."""
        return (self.total_s - self.first_token_s) / (self.new_tokens - 1)


def alternate(
    peers: Sequence[Peer], work: Work, vocab_size: int, progress: Callable[[str], None]
) -> tuple[dict[str, list[Repetition]], list[tuple[Prompts, dict[str, Prompts]]]]:
    """Time every peer ``work.repeats`` times, in turns, after one warm-up each.

    Returns each peer's repetitions, and for each turn the prompts and every peer's token ids.
    """
    rng = random.Random(work.seed)

    def draw() -> Prompts:
        return [
            [rng.randrange(vocab_size) for _ in range(work.prompt_tokens)]
            for _ in range(work.batch)
        ]

    times: dict[str, list[Repetition]] = {peer.name: [] for peer in peers}
    outputs = []
    for turn in range(work.repeats + 1):
        short, long = draw(), draw()
        made = {}
        for peer in peers if turn % 2 else reversed(peers):
            label = f"repetition {turn} of {work.repeats}" if turn else "warm-up"
            progress(f"{peer.name}: {label}")
            first, _ = _timed(peer, short, 1)
            total, made[peer.name] = _timed(peer, long, work.new_tokens)
            if turn:
                times[peer.name].append(Repetition(first, total, work.new_tokens))
        outputs.append((long, made))
    return times, outputs


def _timed(peer: Peer, prompts: Prompts, new_tokens: int) -> tuple[float, Prompts]:
    start = time.perf_counter()
    tokens = peer.generate(prompts, new_tokens)
    seconds = time.perf_counter() - start
    made = [len(row) for row in tokens]
    if made != [new_tokens] * len(prompts):
        raise RequestError(f"{peer.name} made {made} tokens where {new_tokens} each were asked for")
    return seconds, tokens


def summarise(
    times: dict[str, list[Repetition]], work: Work, weight_bytes: int, bandwidth: float
) -> dict[str, Any]:
    """Medians per peer, and how many times faster the first peer is than each other, per pair.

    ``fraction_of_limit``: a decode step reads every weight once, which takes weight_bytes /
    bandwidth seconds at the memory's speed; that time over the measured step.
    """
    ours, *others = times

    def median(values: list[float]) -> float:
        return statistics.median(values)

    peers = {}
    for name, repetitions in times.items():
        step = median([r.step_s for r in repetitions])
        peers[name] = {
            "first_token_ms": 1e3 * median([r.first_token_s for r in repetitions]),
            "ms_per_token": 1e3 * step,
            "decode_tokens_per_s": work.batch / step,
            "tokens_per_s": work.batch * work.new_tokens / median([r.total_s for r in repetitions]),
            "fraction_of_limit": weight_bytes / bandwidth / step,
            "repetitions": [asdict(r) | {"step_s": r.step_s} for r in repetitions],
        }
    ratios = {}
    for name in others:
        pairs = list(zip(times[name], times[ours], strict=True))
        ratios[name] = {
            "decode": median([theirs.step_s / mine.step_s for theirs, mine in pairs]),
            "whole_call": median([theirs.total_s / mine.total_s for theirs, mine in pairs]),
            "decode_pairs": [theirs.step_s / mine.step_s for theirs, mine in pairs],
        }
    return {"peers": peers, f"times_faster_{ours}": ratios}


def compare_tokens(
    outputs: list[tuple[Prompts, dict[str, Prompts]]],
    gap: Callable[[Sequence[int], int, int], float],
) -> dict[str, int]:
    """Count the sequences on which two peers agree, part at a tie, or differ.

    A tie is a first difference between two tokens whose logits are within ``TIE``.
    """
    counts = {"same": 0, "tie": 0, "different": 0}
    for prompts, made in outputs:
        for prompt, mine, theirs in zip(prompts, *made.values(), strict=True):
            if mine == theirs:
                counts["same"] += 1
                continue
            at = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
            tied = gap([*prompt, *mine[:at]], mine[at], theirs[at]) <= TIE
            counts["tie" if tied else "different"] += 1
    return counts


def weight_bytes(llm: LLM) -> int:
    """Bytes of weights that one decode step reads: all but an embedding that only looks rows up."""
    parameters = dict(llm.model.named_parameters())
    total = sum(p.numel() * p.element_size() for p in parameters.values())
    if not llm.config.tie_word_embeddings:
        total -= sum(
            p.numel() * p.element_size() for name, p in parameters.items() if "embed" in name
        )
    return total


def run(
    model: str,
    work: Work,
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Compare litellama with transformers on ``model``; the record, ready for JSON."""
    from litellama import checkpoints

    progress("loading litellama")
    folder = str(checkpoints.resolve(model))
    length = work.prompt_tokens + work.new_tokens
    llm = LLM(folder, device=device, dtype=dtype, max_num_seqs=work.batch, max_seq_len=length)
    weight = next(llm.model.parameters())
    progress("loading transformers")
    theirs = Transformers(folder, weight.dtype, weight.device)
    progress("measuring the memory's bandwidth")
    # A CPU's copy also reads the lines that it overwrites; a GPU's sum can fall short of its copy.
    copy, read = machine.copy_bandwidth(weight.device), machine.read_bandwidth(weight.device)
    times, outputs = alternate([Litellama(llm), theirs], work, llm.config.vocab_size, progress)
    return {
        **machine.describe(weight.device),
        "model": model,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "work": asdict(work),
        "weight_bytes": weight_bytes(llm),
        "copy_bytes_per_s": copy,
        "read_bytes_per_s": read,
        **summarise(times, work, weight_bytes(llm), max(copy, read)),
        "tokens": compare_tokens(outputs, theirs.gap),
    }
