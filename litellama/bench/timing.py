"""Time on a GPU: CUDA graphs between two events, the L2 cache cold, the peers in turns.

A graph keeps the host's launch time out; what is left is what a kernel costs inside the engine's
own graphs.  A small kernel's graph holds many calls, each on tensors of its own, so that the events
cost little and no call finds its inputs in the L2.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Bytes that one replay moves at least, many times the L2 (50 MB on an H100), and its most calls.
REPLAY_BYTES, MOST_CALLS = 1 << 30, 64


def calls_per_replay(bytes_moved: int) -> int:
    """How many calls, each on its own tensors, make one replay large enough to time."""
    return min(max(math.ceil(REPLAY_BYTES / max(bytes_moved, 1)), 1), MOST_CALLS)


class Flush:
    """Empties the L2 of what the last replay left there.

    A kernel that writes leaves the L2 full of lines that its successor must first write to memory,
    so before such a kernel (``dirty``) the L2 is filled with written lines, else with read ones.
    """

    def __init__(self, dirty: bool) -> None:
        self.dirty = dirty
        self.buffer = torch.zeros(1 << 26, dtype=torch.float32, device="cuda")  # 256 MiB

    def __call__(self) -> None:
        if self.dirty:
            self.buffer.zero_()
        else:
            self.buffer.sum()


class Calls:
    """A CUDA graph of some calls, and the calls, whose inputs must live as long as the graph."""

    def __init__(self, graph: torch.cuda.CUDAGraph, calls: Sequence[Callable[[], Any]]) -> None:
        self.graph, self.calls = graph, calls

    def replay(self) -> None:
        self.graph.replay()


def capture(calls: Sequence[Callable[[], Any]]) -> Calls:
    """The calls, one after the other, as a CUDA graph; the first is warmed up before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compile and warm up outside the capture
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call() for call in calls]  # kept, so that each call writes to its own memory
    del results
    return Calls(graph, calls)


def time_in_turns(
    graphs: dict[str, Calls], repeats: int, dirty: bool = True
) -> dict[str, list[float]]:
    """Seconds of ``repeats`` replays of each graph.

    The graphs take turns, in alternating order, so that a GPU that slows down slows all of them.
    """
    flush = Flush(dirty)
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(repeats + 1):  # the first is not counted: it uploads the graphs
        for name in graphs if turn % 2 else reversed(graphs):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush()  # longer than the host takes to queue the replay: the GPU never waits for it
            start.record()
            graphs[name].replay()
            end.record()
            torch.cuda.synchronize()
            if turn:
                times[name].append(start.elapsed_time(end) / 1e3)
    return times


def time_on_gpu(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of ``repeats`` runs of ``function`` on the GPU, each with a cold L2 cache."""
    return time_in_turns({"": capture([function])}, repeats)[""]
