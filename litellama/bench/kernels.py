"""Every kernel against its peers, on a GPU, in one run.

Where memory is the limit a row says GB/s, of the bytes that the formula must move, and the fraction
of this GPU's copy bandwidth; where arithmetic is, TFLOP/s and the fraction of this GPU's bfloat16
matrix product of 8192 x 8192.  Both limits are measured in the same run.  Before a peer is timed
its result is compared with litellama's: a wrong answer has no speed.
"""

import gc
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from litellama.bench import attention, elementwise, machine, matvec, serving_kernels, timing
from litellama.bench.case import Case, Peer
from litellama.errors import RequestError

DTYPES = ("bfloat16", "float16", "float32")
# Largest difference of two right results, relative to the norm: they round in different places.
TOLERANCE = {"bfloat16": 2e-2, "float16": 4e-3, "float32": 2e-3}
OPTIONAL = {elementwise.LIGER: "liger_kernel"}


def all_cases() -> list[Case]:
    """Every case, in the order of the tables."""
    modules = (attention, matvec, serving_kernels, elementwise)
    return [case for module in modules for case in module.cases()]


def choose(names: list[str] | None, only: str = "") -> list[Case]:
    """The cases of the kernels ``names`` (None: all) whose label contains ``only``."""
    cases = all_cases()
    known = list(dict.fromkeys(case.kernel for case in cases))
    for name in names or []:
        if name not in known:
            raise RequestError(f"no kernel {name!r} to time: choose from {', '.join(known)}")
    mine = [case for case in cases if case.kernel in (names or known)]
    chosen = [case for case in mine if only in case.label]
    if not chosen:
        labels = "; ".join(case.label for case in mine)
        raise RequestError(f"no case has {only!r} in its name: choose from {labels}")
    return chosen


@dataclass
class Bench:
    """What the cases share: where they run, how often, and what their rates are compared with.

    failed: the peers that could not be measured, and why.
    """

    device: torch.device
    repeats: int
    progress: Callable[[str], None]
    copy: float
    matmul: float
    failed: list[dict[str, str]] = field(default_factory=list)

    def measure(self, case: Case, dtype: str) -> list[dict[str, Any]]:
        """One row for each peer that could be measured."""
        torch._dynamo.reset()  # each shape is compiled for itself, not for a range of shapes
        inputs = case.inputs(self.device, getattr(torch, dtype))
        moved = case.bytes_moved(inputs)
        calls = 1 if case.flops else timing.calls_per_replay(moved)
        graphs = self._graphs(case, dtype, inputs, calls)
        self.progress(f"{case.kernel} {case.label} {dtype}: timing")
        times = timing.time_in_turns(graphs, self.repeats, dirty=case.writes)
        common = {
            "group": case.group,
            "kernel": case.kernel,
            "case": case.label,
            "shape": [list(tensor.shape) for tensor in inputs],
            "dtype": dtype,
            "gpu": torch.cuda.get_device_name(self.device),
        }
        return [
            common
            | {"peer": peer.name}
            | ({"note": peer.note} if peer.note else {})
            | self._figures([t / calls for t in times[peer.name]], moved, peer.flops or case.flops)
            for peer in case.peers
            if peer.name in times
        ]

    def _graphs(
        self, case: Case, dtype: str, inputs: tuple[torch.Tensor, ...], calls: int
    ) -> dict[str, timing.Calls]:
        """Each peer's graph of ``calls`` calls; a peer that fails is noted and left out."""
        graphs = {}
        right: torch.Tensor | None = None
        sets: dict[Callable[..., Any], list[tuple[Any, ...]]] = {}  # one for each layout
        for peer in case.peers:
            self.progress(f"{case.kernel} {case.label} {dtype}: {peer.name}")
            try:
                if peer.prepare not in sets:
                    sets[peer.prepare] = copies(peer.prepare(*inputs), calls)
                function = peer.call
                if peer.compile is not None:
                    function = torch.compile(function, dynamic=False, options=peer.compile)
                if peer.same_work:
                    result = flat(function(*sets[peer.prepare][0]))
                    right = result if right is None else right
                    check_same(result, right, TOLERANCE[dtype])
                graphs[peer.name] = timing.capture(
                    [partial(function, *mine) for mine in sets[peer.prepare]]
                )
            except Exception as error:  # whatever a peer raises is the finding; the others go on
                self._note(case, dtype, peer, error)
        return graphs

    def _note(self, case: Case, dtype: str, peer: Peer, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        where = {"kernel": case.kernel, "case": case.label, "dtype": dtype, "peer": peer.name}
        self.failed.append(where | {"error": reason})

    def _figures(self, seconds: list[float], moved: int, flops: int | None) -> dict[str, Any]:
        """Median time and rate, and every repetition."""
        median = statistics.median(seconds)
        if flops:
            rate = {
                "flops": flops,
                "tflop_per_s": round(flops / median / 1e12, 2),
                "fraction_of_matmul": round(flops / median / self.matmul, 4),
            }
        else:
            rate = {
                "bytes": moved,
                "gb_per_s": round(moved / median / 1e9, 1),
                "fraction_of_copy": round(moved / median / self.copy, 4),
            }
        times = [round(1e6 * t, 3) for t in seconds]
        return {"median_us": round(1e6 * median, 3), **rate, "repetitions_us": times}


def copies(prepared: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
    """The inputs ``count`` times, each time in memory of their own."""
    return [prepared] + [
        tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in prepared)
        for _ in range(count - 1)
    ]


def flat(result: Any) -> torch.Tensor:
    """All elements of one result or several, as a copy in one row."""
    results = result if isinstance(result, tuple) else (result,)
    return torch.cat([x.flatten() for x in results])


def check_same(result: torch.Tensor, right: torch.Tensor, tolerance: float) -> None:
    """Refuse a result that differs from the right one by more than rounding."""
    if result.shape != right.shape:
        raise RequestError(f"made {result.numel()} elements where the first made {right.numel()}")
    error = float((result - right).float().norm() / right.float().norm())
    if not error <= tolerance:  # also when it is NaN
        raise RequestError(
            f"differs from the first result by {error:.2g}: rounding is {tolerance:g}"
        )


def the_gpu() -> torch.device:
    """The current GPU; RequestError where there is none."""
    if not torch.cuda.is_available():
        raise RequestError(
            "kernels are timed on a GPU, and torch sees none here. On a CPU, Triton's interpreter "
            "shows what a kernel does, never how fast it is; recorded figures are in benchmarks/"
        )
    return torch.device("cuda", torch.cuda.current_device())


def run(
    names: list[str] | None = None,
    only: str = "",
    dtypes: tuple[str, ...] = ("bfloat16",),
    repeats: int = 30,
    progress: Callable[[str], None] = lambda message: None,
    save: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Time the kernels ``names`` (None: all) on the GPU; the record, ready for JSON.

    only: a part of the label of the cases to time.  save: gets the record so far after each case.
    The record's "failed" lists what could not be measured and why, "absent" the peers that are not
    installed.
    """
    cases = choose(names, only)
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise RequestError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    if repeats < 1:
        raise RequestError(f"repeats must be at least 1, got {repeats}")
    device = the_gpu()
    progress("measuring the limits: a copy, a matrix product")
    copy, matmul = machine.copy_bandwidth(device), machine.matmul_rate(device)
    bench = Bench(device, repeats, progress, copy, matmul)
    record = {
        **machine.describe(device),
        "copy_bytes_per_s": copy,
        "matmul_flop_per_s": matmul,
        "absent": [
            name for name, module in OPTIONAL.items() if not importlib.util.find_spec(module)
        ],
        "failed": bench.failed,
        "results": [],
    }
    for dtype in dtypes:
        for case in cases:
            record["results"] += bench.measure(case, dtype)
            save(record)
            gc.collect()  # the graphs' memory, before the next case asks for its own
            torch.cuda.empty_cache()
    return record
