"""When the host launched each kernel and when the GPU ran it: one step as a timeline.

``timed`` and ``timeline`` are for a GPU; ``benchmarks/launches.py`` records with them, and lesson
15 measures with them where the reader has one.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# The host sleeps so long between the steps of a trace, to tell them apart: the longest pauses are
# those, also where a slow host stalls inside a step.
GAP_US = 100_000.0
TRACED = 5  # steps in a trace, of which one is kept
# What a kernel's long name contains, and what it is called in the record; the first match counts.
SHORT = [
    ("memcpy", "copy"),
    ("memset", "fill"),
    ("splitkreduce", "matmul"),
    ("flash_fwd", "attention"),
    ("fmha", "attention"),
    ("attention", "attention"),
    ("reduce_kernel", "reduce"),
    ("gemm", "matmul"),
    ("gemv", "matmul"),
    ("nvjet", "matmul"),
    ("cutlass", "matmul"),
    ("catarray", "concatenate"),
    ("index", "index"),
    ("gather", "index"),
    ("elementwise", "elementwise"),
]

Step = Callable[[], Any]
Event = dict[str, Any]


def timed(step: Step, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds of single steps: until the GPU has done, and until the host has launched all."""
    whole, host = [], []
    for _ in range(steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        whole.append(time.perf_counter() - start)
    return spread(whole), spread(host)


def spread(seconds: list[float]) -> dict[str, float]:
    """The median and the quartiles, in microseconds."""
    low, median, high = statistics.quantiles(seconds, n=4)
    return {key: round(1e6 * x, 1) for key, x in (("median", median), ("q1", low), ("q3", high))}


def timeline(step: Step) -> dict[str, Any]:
    """One of a few profiled steps: see ``one_step``."""
    from torch.profiler import ProfilerActivity as Activity

    for _ in range(3):
        step()
    # Recording every operator on the host would slow it far more than the launches do, and is
    # left for a profiler that otherwise does not tell what launched a kernel.
    line = one_step(trace(step, [Activity.CUDA]))
    if line["lost"]:
        line = one_step(trace(step, [Activity.CPU, Activity.CUDA]))
    return line


def trace(step: Step, activities: list[Any]) -> list[Event]:
    """The events of a few steps, with a pause before each."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(TRACED):
            time.sleep(1e-6 * GAP_US)
            step()
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def one_step(events: list[Event]) -> dict[str, Any]:
    """The step of middle length in a trace, in microseconds from its first launch.

    launches: [start, duration] of each call that starts work on the GPU.  kernels: [index in
    names, index in launches, start, duration]; all kernels of a graph have one launch, and of a
    kernel whose launch was lost the index is -1.  busy_us: time in which a kernel runs; span_us:
    from the first launch to the last kernel's end.
    """
    work = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    work.sort(key=lambda e: e["ts"])
    calls = [e for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    launched_by = {e.get("args", {}).get("correlation"): e for e in calls}
    pauses = [(b["ts"] - end_of(a), i + 1) for i, (a, b) in enumerate(itertools.pairwise(work))]
    found = [i for pause, i in sorted(pauses, reverse=True)[: TRACED - 1] if pause > 0.5 * GAP_US]
    if len(found) != TRACED - 1:
        raise RuntimeError(f"found {len(found) + 1} steps in a trace of {TRACED}")
    borders = [0, *sorted(found), len(work)]
    steps = [work[start:stop] for start, stop in itertools.pairwise(borders)]
    steps.sort(key=lambda step: end_of(step[-1]) - step[0]["ts"])
    return as_line(steps[TRACED // 2], launched_by)


def as_line(work: list[Event], launched_by: dict[Any, Event]) -> dict[str, Any]:
    """The record of one step's work on the GPU, and of the calls that started it."""
    numbers = [e["args"].get("correlation") for e in work]
    known = {number for number in numbers if number is not None and number in launched_by}
    order = sorted(known, key=lambda number: launched_by[number]["ts"])
    place = {number: i for i, number in enumerate(order)}
    calls = [launched_by[number] for number in order]
    zero = min(e["ts"] for e in [*calls, *work])
    names = sorted({short_name(e["name"]) for e in work})

    def since(event: Event) -> list[float]:
        return [round(event["ts"] - zero, 1), round(event["dur"], 1)]

    return {
        "span_us": round(max(map(end_of, work)) - zero, 1),
        "busy_us": round(busy(work), 1),
        "lost": sum(number not in place for number in numbers),
        "names": names,
        "launches": [since(e) for e in calls],
        "kernels": [
            [names.index(short_name(e["name"])), place.get(number, -1), *since(e)]
            for e, number in zip(work, numbers, strict=True)
        ],
    }


def end_of(event: Event) -> float:
    return event["ts"] + event["dur"]


def busy(work: list[Event]) -> float:
    """Microseconds in which at least one of the kernels, sorted by start, runs."""
    total, end = 0.0, float("-inf")
    for event in work:
        total += max(end_of(event) - max(event["ts"], end), 0.0)
        end = max(end, end_of(event))
    return total


def short_name(name: str) -> str:
    """The package's kernels by their own names, others by what they do."""
    if name.endswith("_kernel") and "::" not in name and "<" not in name:
        return name.removesuffix("_kernel")
    lower = name.lower()
    found = next((short for part, short in SHORT if part in lower), None)
    return found or name.split("<")[0].split("(")[0].split("::")[-1].removeprefix("void ")[:24]
