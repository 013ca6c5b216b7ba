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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from litellama.bench import machine
from litellama.bench.limits import kv_bytes_per_token, step_bytes, weight_bytes
from litellama.bench.peers import (
    Litellama,
    MemoryMeter,
    Peer,
    Prompts,
    draw_prompt,
    peers_of,
    picture_tokens,
)
from litellama.checkpoints import resolve
from litellama.config import ModelConfig
from litellama.errors import RequestError
from litellama.llm import LLM, pick_device
from litellama.models import presets, read_config

# Engines add in different orders; logits this close are a tie that either may break.  In bfloat16
# those from 2 to 4 come in steps of 1/64, after sums that were rounded many times before.
TIES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 6e-2}
BLOCK_SIZE = 64


@dataclass(frozen=True)
class Work:
    """What both sides do: ``batch`` prompts of ``prompt_tokens`` ids, ``new_tokens`` more each.

    Where the model reads pictures, the tokens of one come before those of each prompt.
    """

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
    peers: Sequence[Peer],
    work: Work,
    config: ModelConfig,
    progress: Callable[[str], None],
    watch: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> tuple[dict[str, list[Repetition]], list[tuple[Prompts, dict[str, Prompts]]]]:
    """Time every peer ``work.repeats`` times, in turns, after one warm-up each.

    watch: a context around the calls of the peer of that name.  Returns each peer's repetitions,
    and for each turn the prompts and every peer's token ids, those of the first peer first.
    """
    rng = random.Random(work.seed)

    def draw() -> Prompts:
        return [draw_prompt(work.prompt_tokens, config, rng) for _ in range(work.batch)]

    for peer in peers:
        progress(f"{peer.name}: warm-up")
        with watch(peer.name):
            # The long call first: a static cache of its length then serves the short one too.
            peer.generate(draw(), peer.warm_up_tokens(work.new_tokens))
            peer.generate(draw(), 1)
    times: dict[str, list[Repetition]] = {peer.name: [] for peer in peers}
    outputs = []
    for turn in range(1, work.repeats + 1):
        short, long = draw(), draw()
        made = {}
        for peer in peers if turn % 2 else reversed(peers):
            progress(f"{peer.name}: repetition {turn} of {work.repeats}")
            with watch(peer.name), machine.without_old_garbage():
                first, _ = _timed(peer, short, 1)
                total, made[peer.name] = _timed(peer, long, work.new_tokens)
            times[peer.name].append(Repetition(first, total, work.new_tokens))
        outputs.append((long, {peer.name: made[peer.name] for peer in peers}))
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
    times: dict[str, list[Repetition]], work: Work, step_bytes: float, bandwidth: float
) -> dict[str, Any]:
    """Medians per peer, and how many times faster the first peer is than each other, per pair.

    ``fraction_of_limit``: a decode step must read ``step_bytes`` (see ``bench.limits``), which
    takes step_bytes / bandwidth seconds at the memory's speed; that time over the measured step.
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
            "fraction_of_limit": step_bytes / bandwidth / step,
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
    tie: float = TIES[torch.float32],
) -> dict[str, dict[str, float]]:
    """Count the sequences on which the first peer and each other agree, part at a tie, or differ.

    A tie is a first difference between two tokens whose logits are within ``tie``.  largest_gap:
    how far apart the logits of a first difference are at most.
    """
    counts: dict[str, dict[str, float]] = {}
    for prompts, made in outputs:
        ours, *others = made
        for name in others:
            empty = {"same": 0, "tie": 0, "different": 0, "largest_gap": 0.0}
            count = counts.setdefault(name, empty)
            for prompt, mine, theirs in zip(prompts, made[ours], made[name], strict=True):
                if mine == theirs:
                    count["same"] += 1
                    continue
                apart = _first_gap(prompt, mine, theirs, gap)
                count["tie" if apart <= tie else "different"] += 1
                count["largest_gap"] = max(count["largest_gap"], apart)
    return counts


def _first_gap(
    prompt: list[int],
    mine: list[int],
    theirs: list[int],
    gap: Callable[[Sequence[int], int, int], float],
) -> float:
    """How far apart the logits of the first two tokens that differ are."""
    at = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    return gap([*prompt, *mine[:at]], mine[at], theirs[at])


def run(
    model: str,
    work: Work,
    device: str = "auto",
    dtype: str = "auto",
    against: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Compare litellama with transformers on ``model``; the record, ready for JSON.

    model: what ``LLM`` takes; "random:llama-3.2-1b" needs no checkpoint.  against: "eager" and
    "compiled" transformers; None: both on a GPU, and on a CPU, where it does not compile, eager.
    """
    progress("loading litellama")
    where = pick_device(device)
    if against is None:
        against = ["eager", "compiled"] if where.type == "cuda" else ["eager"]
    meter = MemoryMeter(where)
    with meter.watch(Litellama.name):
        llm = load(model, work, device, dtype)
    if against:
        progress("loading transformers")
    theirs = peers_of(llm, against)
    weights, kv = weight_bytes(llm), kv_bytes_per_token(llm)
    for peer in theirs:
        meter.lend(peer.name, sum(p.numel() * p.element_size() for p in llm.model.parameters()))
    progress("measuring the memory's bandwidth")
    copy, read = machine.copy_bandwidth(where), machine.read_bandwidth(where)
    times, outputs = alternate([Litellama(llm), *theirs], work, llm.config, progress, meter.watch)
    pictures = picture_tokens(llm.config)
    moved = step_bytes(weights, kv, work.batch, pictures + work.prompt_tokens, work.new_tokens)
    # A CPU's copy also reads the lines that it overwrites; a GPU's sum can fall short of its copy.
    summary = summarise(times, work, moved, max(copy, read))
    for name, peak in meter.peak.items():
        summary["peers"][name]["peak_memory_bytes"] = peak
    return {
        **machine.describe(where),
        "kind": "generate",
        "model": model,
        "dtype": str(llm.weight_dtype).removeprefix("torch."),
        "work": asdict(work),
        **({"picture_tokens": pictures} if pictures else {}),
        "weight_bytes": weights,
        "kv_bytes_per_token": kv,
        "step_bytes": moved,
        "copy_bytes_per_s": copy,
        "read_bytes_per_s": read,
        **summary,
        "tokens": compare_tokens(outputs, theirs[0].gap, TIES[llm.dtype]) if theirs else {},
    }


def load(model: str, work: Work, device: str, dtype: str) -> LLM:
    """litellama with a cache for the work and no more, so that its peak memory means something."""
    preset = model.startswith(presets.PREFIX)
    config = presets.preset_config(model) if preset else read_config(resolve(model))
    length = picture_tokens(config) + work.prompt_tokens + work.new_tokens
    blocks = work.batch * (-(-length // BLOCK_SIZE) + 1)
    return LLM(
        model,
        device=device,
        dtype=dtype,
        max_num_seqs=work.batch,
        max_seq_len=length,
        block_size=BLOCK_SIZE,
        kv_cache_tokens=blocks * BLOCK_SIZE,
    )
