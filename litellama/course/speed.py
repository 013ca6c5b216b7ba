"""Lesson 17's arithmetic: what a machine allows, what was recorded, and what lies between.

A decode step reads every weight once and every key and value of its sequences, and computes with
each of them; ``predict`` says how long that takes at least.  ``account`` puts what kernels cost by
themselves between that limit and a recorded step.  Times are in seconds, rates in a second.
"""

import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litellama.bench import report
from litellama.config import ModelConfig
from litellama.course.figures import BENCHMARKS
from litellama.errors import RequestError
from litellama.models.presets import preset_config

Record = dict[str, Any]
OURS = report.OURS
GB, TERA = 1e9, 1e12


# --- machines ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Bytes and FLOPs a second, and where they are from.

    memory: in bytes, None where unknown.  element_size: of the numbers that the FLOPs are done in.
    """

    name: str
    source: str
    bandwidth: float
    flops: float
    memory: float | None = None
    element_size: int = 2


# Dense bfloat16, no sparsity, from the data sheets that the lesson links to.
DATA_SHEETS = (
    Machine("A100 80GB SXM", "data sheet", 2039 * GB, 312 * TERA, 80e9),
    Machine("H100 SXM", "data sheet", 3350 * GB, 989 * TERA, 80e9),
    Machine("H200 SXM", "data sheet", 4800 * GB, 989 * TERA, 141e9),
)


def fastest(call: Callable[[], Any], repeats: int = 8) -> float:
    """Seconds of the fastest of some calls: a ceiling is what a machine can do undisturbed."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first warms up


def this_machine(device: Any) -> Machine:
    """Measured now: memory read or copied, and a product in the dtype the lesson runs in.

    That is bfloat16 on a GPU and float32 on a CPU.
    """
    import torch

    from litellama.bench import machine

    bandwidth = max(machine.copy_bandwidth(device), machine.read_bandwidth(device))
    if device.type == "cuda":
        name, flops = torch.cuda.get_device_name(device), machine.matmul_rate(device)
        return Machine(name, "measured now", bandwidth, flops)
    a, b = torch.randn(2, 2048, 2048)
    flops = 2 * 2048**3 / fastest(lambda: a @ b)
    name = f"this CPU, {threads(torch.get_num_threads())}"
    return Machine(name, "measured now", bandwidth, flops, element_size=4)


# --- records -------------------------------------------------------------------------------------


def records(pattern: str, folder: Path = BENCHMARKS) -> list[Record]:
    """The records of files with such a name, in the order of the names; none is no error."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))]
    return [record for record in found if isinstance(record, dict)]


def threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread" + "s" * (count > 1)


def engines(kind: str = "generate", gpu: bool = True, folder: Path = BENCHMARKS) -> list[Record]:
    """Engine records of a kind ("generate", "queue", "prefix") taken on a GPU, or on a CPU."""
    found = records("engine_*.json", folder)
    return [r for r in found if r.get("kind") == kind and ("gpu" in r) == gpu]


def find(found: list[Record], model: str, batch: int = 1) -> Record | None:
    """The record of a model ("llama-3.2-1b") at a batch size, if there is one."""
    for record in found:
        if name_of(record) == model and record["work"].get("batch") == batch:
            return record
    return None


def name_of(record: Record) -> str:
    """``llama-3.2-1b`` of ``random:llama-3.2-1b``."""
    return record["model"].removeprefix("random:")


def kernel_record(folder: Path = BENCHMARKS) -> Record | None:
    """The first record of the kernels that has a GPU's limits, if there is one."""
    found = records("kernels_*.json", folder)
    return next((r for r in found if "gpu" in r and "matmul_flop_per_s" in r), None)


def bandwidth_of(record: Record) -> float:
    """The memory's speed as it was measured with a record: the faster of a copy and a sum."""
    return max(record["copy_bytes_per_s"], record.get("read_bytes_per_s", 0.0))


def limit_of(record: Record) -> float:
    """Seconds that the bytes of a recorded step take at the memory's speed."""
    return record["step_bytes"] / bandwidth_of(record)


def recorded_machine(kernels: Record | None, record: Record | None = None) -> Machine | None:
    """The recorded GPU; its memory's speed is that of ``record``, if that is of the same GPU."""
    if kernels is None:
        return None
    same = record is not None and record.get("gpu") == kernels["gpu"]
    of_memory = record if record and same else kernels
    source = " and ".join(dict.fromkeys(r["date"] for r in (of_memory, kernels)))
    sheets = (m.memory for m in DATA_SHEETS if m.name.split()[0] in kernels["gpu"])
    return Machine(
        kernels["gpu"],
        f"measured {source}",
        bandwidth_of(of_memory),
        kernels["matmul_flop_per_s"],
        next(sheets, None),
    )


def best_read(kernels: Record, least: float = 256e6) -> tuple[float, str] | None:
    """The fastest that any kernel streamed its bytes, and which: a kernel that hardly writes.

    least: bytes of a case, so many that no cache holds them.
    """
    rows = [
        (row["bytes"] / row["median_us"] * 1e6, f"{row['peer']}, {row['case']}")
        for row in kernels["results"]
        if row["kernel"] in ("matvec", "flash_decoding") and row.get("bytes", 0) >= least
    ]
    return max(rows, default=None)


# --- prediction ----------------------------------------------------------------------------------


@functools.cache
def parameters(c: ModelConfig) -> int:
    """Weights that a step of a decoder reads: all but an embedding that only looks rows up."""
    import torch

    from litellama.models import decoder_of, empty_model

    decoder = decoder_of(empty_model(c, torch.device("meta"), torch.bfloat16))
    count = sum(p.numel() for p in decoder.parameters())
    return count - (0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size)


@dataclass(frozen=True)
class Prediction:
    """Least times of one decode step, in seconds; memory and arithmetic work at the same time."""

    batch: float
    weights: float
    keys: float
    arithmetic: float

    @property
    def step(self) -> float:
        return max(self.weights + self.keys, self.arithmetic)

    @property
    def tokens_per_s(self) -> float:
        return self.batch / self.step

    @property
    def limited_by(self) -> str:
        if self.arithmetic > self.weights + self.keys:
            return "the arithmetic"
        return "reading keys and values" if self.keys > self.weights else "reading the weights"


def predict(
    c: ModelConfig,
    machine: Machine,
    batch: float = 1,
    context: float = 1024,
    weight_bytes: float = 2,
    kv_bytes: float = 2,
    rows: float = 1,
) -> Prediction:
    """A decode step of ``batch`` sequences that each see ``context`` tokens.

    weight_bytes, kv_bytes: of one number (2 in 16 bits); the arithmetic is the same for all.
    rows: tokens of each sequence in the step, more than one when drafted tokens are checked.
    """
    attention = 4 * c.num_layers * c.q_size * context
    return Prediction(
        batch,
        weights=parameters(c) * weight_bytes / machine.bandwidth,
        keys=batch * context * c.kv_bytes_per_token(1) * kv_bytes / machine.bandwidth,
        arithmetic=batch * rows * (2 * parameters(c) + attention) / machine.flops,
    )


def occupied(c: ModelConfig, batch: int, context: float, weight_bytes: float = 2) -> float:
    """Bytes that must be in memory: weights (with an untied embedding), keys and values."""
    embedding = 0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size
    keys = batch * context * c.kv_bytes_per_token(2)
    return (parameters(c) + embedding) * weight_bytes + keys


def knees(c: ModelConfig, machine: Machine, context: float, **sizes: float) -> dict[str, float]:
    """The batches at which something else becomes the limit; infinite where it never does."""
    one = predict(c, machine, 1, context, **sizes)
    per_sequence = one.arithmetic - one.keys
    return {
        "keys": one.weights / one.keys if one.keys else math.inf,
        "arithmetic": one.weights / per_sequence if per_sequence > 0 else math.inf,
    }


# --- the account of one step ---------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A piece of a step's time, in seconds (below zero: time that is won back).

    kind: "limit", "kernel" (measured by itself), "stand-in" (measured at another size) or "rest".
    """

    label: str
    seconds: float
    kind: str


def ours(kernels: Record, kernel: str, dtype: str = "bfloat16") -> list[Record]:
    """litellama's own rows of a kernel."""
    rows = (row for row in kernels["results"] if row["dtype"] == dtype)
    return [row for row in rows if (row["kernel"], row["peer"]) == (kernel, OURS)]


def seconds_of(row: Record) -> float:
    """The median of a row."""
    return row["median_us"] / 1e6


def linear_sizes(c: ModelConfig) -> dict[str, tuple[int, int]]:
    """(outputs N, inputs K) of a layer's four matrices, and of the head."""
    return {
        "qkv": (c.q_size + 2 * c.kv_size, c.hidden_size),
        "o": (c.hidden_size, c.q_size),
        "gate_up": (2 * c.intermediate_size, c.hidden_size),
        "down": (c.hidden_size, c.intermediate_size),
        "lm_head": (c.vocab_size, c.hidden_size),
    }


def linear_row(kernels: Record, layer: str, size: tuple[int, int]) -> Record | None:
    """The row of a matrix times one row; with its neighbours in the kernel, where that is there."""
    n, k = size
    rows = [
        row
        for row in ours(kernels, "matvec")
        if row["case"].endswith(f"{n}×{k}") and layer in row["case"].split()
    ]
    return max(rows, key=lambda row: "+" in row["case"], default=None)


def decode_row(kernels: Record, c: ModelConfig, context: float) -> Record | None:
    """Decoding attention of one sequence, of the recorded sizes the nearest to the model's."""
    rows = [row for row in ours(kernels, "flash_decoding") if row["shape"][0][0] == 1]

    def distance(row: Record) -> tuple[bool, float]:
        (_, _, keys, head_dim) = row["shape"][1]
        return head_dim != c.head_dim, abs(math.log(keys / context))

    return min(rows, key=distance, default=None)


def account(record: Record, kernels: Record, steps: Record | None = None) -> list[Part]:
    """From the limit to the measured step of one sequence, part by part; empty if parts lack.

    record: of the engine.  steps: the same model's launches (``launches.find``), which tell the
    replayed graph from the engine around it; without them these are one part.
    """
    try:
        c = preset_config(name_of(record))
    except RequestError:
        return []
    one_llama = record["work"]["batch"] == 1 and c.architecture == "LlamaForCausalLM"
    if not one_llama or record.get("gpu") != kernels.get("gpu"):
        return []
    linears, others = _linears(c, record, kernels), _others(c, record, kernels)
    if not linears or not others:
        return []
    parts = [Part("bytes at the memory's speed", limit_of(record), "limit"), *linears, *others]
    return parts + _rest(parts, record, steps)


def _linears(c: ModelConfig, record: Record, kernels: Record) -> list[Part]:
    """What the matrices take beyond their bytes; empty where one of them was not recorded."""
    parts = []
    for name, size in linear_sizes(c).items():
        row = linear_row(kernels, name, size)
        if row is None:
            return []
        over = seconds_of(row) - row["bytes"] / bandwidth_of(record)
        count = 1 if name == "lm_head" else c.num_layers
        label = f"{count} × {name}" if count > 1 else name
        parts.append(Part(f"{label}, over its bytes", count * over, "kernel"))
    return parts


def _others(c: ModelConfig, record: Record, kernels: Record) -> list[Part]:
    """Attention beyond its bytes, and the small kernels, from the nearest sizes recorded."""
    n, work = c.num_layers, record["work"]
    row = decode_row(kernels, c, report.prompt_length(record) + work["new_tokens"] / 2)
    if row is None:
        return []
    over = seconds_of(row) - row["bytes"] / bandwidth_of(record)
    keys = row["shape"][1][2]
    parts = [Part(f"{n} × attention, as with {keys:,} keys", n * over, "stand-in")]
    # Older records have the two apart, as the engine had them.
    between = ["rope_write_kv"] if ours(kernels, "rope_write_kv") else ["rope", "write_kv"]
    for name, count in (dict.fromkeys(between, n) | {"rms_norm": 1, "sample": 1}).items():
        rows = ours(kernels, name)
        if not rows:
            return []
        label = f"{n} × {name}" if count > 1 else name
        parts.append(Part(label, count * min(map(seconds_of, rows)), "stand-in"))
    return parts


def _rest(parts: list[Part], record: Record, steps: Record | None) -> list[Part]:
    """What the step took beyond the sum of the parts, split where the launches tell how."""
    known = sum(part.seconds for part in parts)
    measured = record["peers"][OURS]["ms_per_token"] / 1e3
    if steps is None or not {"graph"} <= set(steps["step_us"]) & set(steps.get("engine_us", {})):
        return [Part("gaps, overlap, host: not told apart", measured - known, "rest")]
    graph, engine = (steps[key]["graph"]["median"] / 1e6 for key in ("step_us", "engine_us"))
    return [
        Part("gaps and kernels not in the list, less overlap", graph - known, "rest"),
        Part("the engine around the graph", engine - graph, "rest"),
        Part("not explained", measured - engine, "rest"),
    ]


# --- what serving and prompts take ---------------------------------------------------------------


def queue_account(record: Record, flops: float) -> dict[str, float]:
    """Seconds of a recorded queue: its least bytes, its arithmetic, and the rest; the median run.

    The arithmetic is two FLOPs for each weight and token, prompts and answers; that of attention is
    left out, and the answers' may hide behind the reading, so the rest is, if anything, larger.
    """
    middle = statistics.median_low(r["total_s"] for r in record["repetitions"])
    run = next(r for r in record["repetitions"] if r["total_s"] == middle)
    weights = record["weight_bytes"] / 2
    reading = run["fraction_of_limit"] * run["total_s"]
    prompts = 2 * weights * run["prompt_tokens"] / flops
    return {
        "steps": run["steps"],
        "total": run["total_s"],
        "reading": reading,
        "prompts": prompts,
        "rest": run["total_s"] - reading - prompts,
    }


def losses(kernels: Record, margin: float = 0.95) -> list[report.Line]:
    """The cases where somebody else's kernel is clearly quicker than litellama's, the worst first.

    Within 5% is called even.  Lesson 08's first version, a rung of its ladder, is left out; so is
    litellama's own dense kernel, which stands beside packed prompts for comparison.
    """
    rows = [row for row in kernels["results"] if not row["peer"].startswith("dense")]
    rows = [row for row in rows if row["kernel"] != "flash_attention_v1"]
    compared = report.lines(kernels | {"results": rows})
    slower = [line for line in compared if line.times_faster and line.times_faster < margin]
    return sorted(slower, key=lambda line: line.times_faster or 1)


# --- what it would buy ---------------------------------------------------------------------------


def tokens_per_round(accepted: float, drafted: int) -> float:
    """Tokens that a round of speculative decoding makes on average (Leviathan et al., 2023).

    accepted: the probability that a drafted token is kept, the same for each and independent.
    """
    if accepted == 1:
        return drafted + 1.0
    return (1 - accepted ** (drafted + 1)) / (1 - accepted)
