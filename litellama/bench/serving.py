"""How litellama serves many: a queue of unequal requests, and requests that share a prefix.

Both draw fresh random prompts for each repetition, so that nothing is in the cache but what the
measurement put there.  The queue's default sizes are those of nano-vllm's benchmark.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from litellama.bench import machine
from litellama.bench.limits import kv_bytes_per_token, serving_bytes, weight_bytes
from litellama.bench.peers import Litellama, MemoryMeter, Prompts, draw_words
from litellama.config import ModelConfig
from litellama.errors import RequestError
from litellama.llm import LLM, RequestOutput, pick_device
from litellama.sampling import SamplingParams

Progress = Callable[[str], None]
BLOCK_SIZE = 64


@dataclass(frozen=True)
class Queue:
    """Requests that are all there at the start; lengths are uniform in shortest .. longest.

    Each prompt and each answer has a length of its own; answers are sampled at temperature 0.6.
    max_step_tokens: as nano-vllm's max_num_batched_tokens; nobody is kept waiting here by a long
    step, and fewer of them compute the prompts.
    """

    requests: int = 256
    shortest: int = 100
    longest: int = 1024
    max_num_seqs: int = 256
    max_step_tokens: int = 16384
    repeats: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.shortest > self.longest:
            raise RequestError(f"shortest ({self.shortest}) is above longest ({self.longest})")


@dataclass(frozen=True)
class SharedPrefix:
    """Requests that arrive together, with the same first tokens and a few of their own."""

    requests: int = 64
    prefix_tokens: int = 2000
    own_tokens: int = 32
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self)


def _check_positive(work: Queue | SharedPrefix) -> None:
    for name, value in asdict(work).items():
        if value < (0 if name == "seed" else 1):
            raise RequestError(f"{name} must be at least 1, got {value}")


def run_queue(
    model: str,
    work: Queue,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Output tokens per second of a queue; the record, ready for JSON."""
    progress("loading litellama")
    where, rng = pick_device(device), random.Random(work.seed)
    meter = MemoryMeter(where)
    with meter.watch(Litellama.name):
        llm = LLM(
            model,
            device=device,
            dtype=dtype,
            max_num_seqs=work.max_num_seqs,
            max_step_tokens=work.max_step_tokens,
            max_seq_len=2 * work.longest,
            block_size=BLOCK_SIZE,
        )
    progress("measuring the memory's bandwidth")
    copy, read = machine.copy_bandwidth(where), machine.read_bandwidth(where)
    repetitions = []
    for turn in range(work.repeats + 1):
        progress(f"repetition {turn} of {work.repeats}" if turn else "warm-up")
        with meter.watch(Litellama.name):
            measured = _one_queue(llm, work, rng, max(copy, read))
        if turn:
            repetitions.append(measured)
    middle = {
        key: statistics.median(r[key] for r in repetitions)
        for key in ("tokens_per_s", "fraction_of_limit")
    }
    memory = {"peak_memory_bytes": meter.peak[Litellama.name]} if meter.peak else {}
    return _head("queue", model, llm, work, copy, read) | middle | memory | {
        "weight_bytes": weight_bytes(llm),
        "kv_bytes_per_token": kv_bytes_per_token(llm),
        "repetitions": repetitions,
    }  # fmt: skip


def _one_queue(llm: LLM, work: Queue, rng: random.Random, bandwidth: float) -> dict[str, Any]:
    """One repetition, on fresh prompts."""
    prompts, answers = draw_queue(work, llm.config, rng)
    before = llm.engine.stats()
    with machine.without_old_garbage():
        seconds = _serve(llm, prompts, answers)
    after = llm.engine.stats()
    lengths = list(zip(map(len, prompts), answers, strict=True))
    moved = serving_bytes(weight_bytes(llm), kv_bytes_per_token(llm), lengths, work.max_num_seqs)
    return {
        "total_s": seconds,
        "prompt_tokens": sum(map(len, prompts)),
        "output_tokens": sum(answers),
        "tokens_per_s": sum(answers) / seconds,
        "steps": after.steps - before.steps,
        "preemptions": after.preemptions - before.preemptions,
        "fraction_of_limit": moved / bandwidth / seconds,
    }


def draw_queue(work: Queue, config: ModelConfig, rng: random.Random) -> tuple[Prompts, list[int]]:
    """Random prompts, and how many tokens each answer is to have."""
    prompts = [
        draw_words(rng.randint(work.shortest, work.longest), config, rng)
        for _ in range(work.requests)
    ]
    return prompts, [rng.randint(work.shortest, work.longest) for _ in range(work.requests)]


def _serve(llm: LLM, prompts: Prompts, answers: Sequence[int]) -> float:
    """Seconds until all are answered in full."""
    params = [SamplingParams(temperature=0.6, max_tokens=n, ignore_eos=True) for n in answers]
    start = time.perf_counter()
    outputs = llm.generate(prompts, params)
    seconds = time.perf_counter() - start
    made = [len(output.token_ids) for output in outputs]
    if made != list(answers):
        raise RequestError(f"litellama made {sum(made)} tokens where {sum(answers)} were asked for")
    return seconds


def run_prefix(
    model: str,
    work: SharedPrefix,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Time to the first token with and without reuse of a shared prefix; the record for JSON.

    "cached": another request has left the prefix in the cache; "together": nobody has, and the
    requests share it among themselves; "without": reuse is off.  Each gives the seconds until the
    last of the requests has its first token, and "alone" those of one request.
    """
    progress("loading litellama, with reuse and without")
    rng = random.Random(work.seed)
    reuse, without = (_prefix_llm(model, work, device, dtype, caching) for caching in (True, False))
    copy, read = machine.copy_bandwidth(reuse.device), machine.read_bandwidth(reuse.device)
    repetitions = []
    for turn in range(work.repeats + 1):
        progress(f"repetition {turn} of {work.repeats}" if turn else "warm-up")
        measured = _first_tokens(reuse, without, work, rng)
        if turn:
            repetitions.append(measured)
    keys = [key for key in repetitions[0] if key.endswith("_s")]
    middle = {key: statistics.median(r[key] for r in repetitions) for key in keys}
    return _head("prefix", model, reuse, work, copy, read) | middle | {
        "times_faster": {
            "cached": statistics.median(r["without_s"] / r["cached_s"] for r in repetitions),
            "together": statistics.median(r["without_s"] / r["together_s"] for r in repetitions),
            "alone": statistics.median(
                r["without_alone_s"] / r["cached_alone_s"] for r in repetitions
            ),
        },
        "repetitions": repetitions,
    }  # fmt: skip


def _prefix_llm(model: str, work: SharedPrefix, device: str, dtype: str, caching: bool) -> LLM:
    """A cache that holds every request in full, twice: reuse is never for want of room."""
    length = work.prefix_tokens + work.own_tokens + 1
    blocks = 2 * work.requests * (-(-length // BLOCK_SIZE) + 1)
    return LLM(
        model,
        device=device,
        dtype=dtype,
        max_num_seqs=work.requests,
        max_seq_len=length,
        block_size=BLOCK_SIZE,
        kv_cache_tokens=blocks * BLOCK_SIZE,
        prefix_caching=caching,
    )


def _first_tokens(
    reuse: LLM, without: LLM, work: SharedPrefix, rng: random.Random
) -> dict[str, float]:
    """One repetition: seconds, the share of prompt tokens found in the cache, and agreement."""
    config = reuse.config

    def draw(count: int, prefix: list[int]) -> Prompts:
        return [prefix + draw_words(work.own_tokens, config, rng) for _ in range(count)]

    def fresh() -> list[int]:
        return draw_words(work.prefix_tokens, config, rng)

    prefix = fresh()
    first, alone, many = draw(1, prefix), draw(1, prefix), draw(work.requests, prefix)
    without_alone_s, _ = _first(without, alone)
    without_s, right = _first(without, many)
    _first(reuse, first)
    cached_alone_s, _ = _first(reuse, alone)
    cached_s, outputs = _first(reuse, many)
    together_s, _ = _first(reuse, draw(work.requests, fresh()))
    found = sum(output.num_cached_tokens for output in outputs)
    return {
        "without_s": without_s,
        "cached_s": cached_s,
        "together_s": together_s,
        "without_alone_s": without_alone_s,
        "cached_alone_s": cached_alone_s,
        "fraction_cached": found / sum(map(len, many)),
        "same_tokens": sum(a.token_ids == b.token_ids for a, b in zip(right, outputs, strict=True)),
    }


def _first(llm: LLM, prompts: Prompts) -> tuple[float, list[RequestOutput]]:
    """Seconds until each prompt has its first token, and the answers of one token."""
    start = time.perf_counter()
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    return time.perf_counter() - start, outputs


def _head(
    kind: str, model: str, llm: LLM, work: Queue | SharedPrefix, copy: float, read: float
) -> dict[str, Any]:
    """What every record says: the machine, the model, the work, the memory's speed."""
    return {
        **machine.describe(llm.device),
        "kind": kind,
        "model": model,
        "dtype": str(llm.dtype).removeprefix("torch."),
        "work": asdict(work),
        "copy_bytes_per_s": copy,
        "read_bytes_per_s": read,
    }
