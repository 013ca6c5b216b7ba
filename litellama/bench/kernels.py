"""Each memory-bound kernel against torch, eager and compiled, on a GPU.

A repetition is one replay of a CUDA graph between two events, with the L2 cache flushed before it:
small tensors left in the L2 would show more than the memory's bandwidth, and a graph keeps the
host's launch time out.  Bytes are those that the formula must move (see each kernel's file), so
an implementation that moves more shows a lower bandwidth.
"""

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from litellama import kernels
from litellama.bench import machine
from litellama.errors import RequestError

Inputs = tuple[torch.Tensor, ...]
EPS = 1e-6
HIDDEN, INTERMEDIATE = 4096, 14336  # Llama-3 8B
QUERY_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
TOKENS = (16, 256, 4096, 16384)


@dataclass(frozen=True)
class Case:
    """One kernel: how to make its inputs, what to call, and the bytes it has to move.

    make(tokens, width): inputs in float32 on the CPU; elements(inputs): elements read and written.
    torch: the best that plain torch offers for the same result, also what torch.compile is given.
    """

    name: str
    width: int
    make: Callable[[int, int], Inputs]
    ours: Callable[..., Any]
    torch: Callable[..., Any]
    elements: Callable[[Inputs], int]

    def bytes_moved(self, inputs: Inputs) -> int:
        return self.elements(inputs) * inputs[0].element_size()


def _matrices(count: int, weight: bool = False) -> Callable[[int, int], Inputs]:
    def make(tokens: int, width: int) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(tokens, width, generator=generator) for _ in range(count)]
        return (*inputs, torch.rand(width, generator=generator) + 0.5) if weight else tuple(inputs)

    return make


def _rope_inputs(tokens: int, width: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    query_heads, kv_heads = width // HEAD_DIM, max(width // HEAD_DIM // 4, 1)
    q = torch.randn(tokens, query_heads, HEAD_DIM, generator=generator)
    k = torch.randn(tokens, kv_heads, HEAD_DIM, generator=generator)
    frequency = 500000.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    angle = torch.arange(tokens)[:, None] * frequency
    return q, k, angle.cos(), angle.sin()


def _torch_skip_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Inputs:
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, EPS), total


def _torch_rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Inputs:
    cos, sin = (torch.cat([table, table], dim=-1)[:, None] for table in (cos, sin))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    return rotate(q), rotate(k)


def _torch_swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


CASES = {
    case.name: case
    for case in (
        Case("mul", HIDDEN, _matrices(2), kernels.mul, torch.mul, lambda t: 3 * t[0].numel()),
        Case(
            "softmax", HIDDEN, _matrices(1), kernels.softmax,
            lambda x: torch.softmax(x, dim=-1), lambda t: 2 * t[0].numel(),
        ),
        Case(
            "rms_norm", HIDDEN, _matrices(1, weight=True),
            lambda x, weight: kernels.rms_norm(x, weight, EPS),
            lambda x, weight: F.rms_norm(x, weight.shape, weight, EPS),
            lambda t: 2 * t[0].numel() + t[1].numel(),
        ),
        Case(
            "skip_rms_norm", HIDDEN, _matrices(2, weight=True),
            lambda x, residual, weight: kernels.skip_rms_norm(x, residual, weight, EPS),
            _torch_skip_rms_norm, lambda t: 4 * t[0].numel() + t[2].numel(),
        ),
        Case(
            "rope", HIDDEN, _rope_inputs, kernels.rope, _torch_rope,
            lambda t: 2 * (t[0].numel() + t[1].numel()) + t[2].numel() + t[3].numel(),
        ),
        Case(
            "swiglu", 2 * INTERMEDIATE, _matrices(1), kernels.swiglu, _torch_swiglu,
            lambda t: t[0].numel() * 3 // 2,
        ),
    )
}  # fmt: skip


def run(
    names: list[str] | None = None,
    dtypes: tuple[str, ...] = ("bfloat16",),
    tokens: tuple[int, ...] = TOKENS,
    repeats: int = 30,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Time ``names`` (default: all) on the GPU; the record, ready for JSON."""
    if not torch.cuda.is_available():
        raise RequestError(
            "kernels are timed on a GPU, and torch sees none here. On a CPU, Triton's interpreter "
            "shows what a kernel does, never how fast it is; recorded figures are in benchmarks/"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    bandwidth = machine.copy_bandwidth(device)
    rows = []
    for name in names or list(CASES):
        if name not in CASES:
            raise RequestError(f"no kernel {name!r} to time: choose from {', '.join(CASES)}")
        for dtype in dtypes:
            for count in tokens:
                progress(f"{name} {dtype} {count} tokens")
                rows += _time_case(CASES[name], count, dtype, device, repeats, bandwidth)
    return {**machine.describe(device), "copy_bytes_per_s": bandwidth, "results": rows}


def _time_case(
    case: Case, tokens: int, dtype: str, device: torch.device, repeats: int, bandwidth: float
) -> list[dict[str, Any]]:
    inputs = tuple(t.to(device, getattr(torch, dtype)) for t in case.make(tokens, case.width))
    torch._dynamo.reset()  # each shape is compiled for itself, not for a range of shapes
    peers = {
        "litellama": case.ours,
        "torch eager": case.torch,
        "torch.compile": torch.compile(case.torch),
    }
    rows = []
    for peer, function in peers.items():
        times = time_on_gpu(functools.partial(function, *inputs), repeats)
        seconds = statistics.median(times)
        rate = case.bytes_moved(inputs) / seconds
        rows.append(
            {
                "kernel": case.name,
                "shape": [list(t.shape) for t in inputs],
                "dtype": dtype,
                "gpu": torch.cuda.get_device_name(device),
                "peer": peer,
                "median_us": round(1e6 * seconds, 3),
                "gb_per_s": round(rate / 1e9, 1),
                "fraction_of_copy": round(rate / bandwidth, 4),
                "repetitions_us": [round(1e6 * t, 3) for t in times],
            }
        )
    return rows


def time_on_gpu(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of ``repeats`` runs of ``function`` on the GPU, each with a cold L2 cache."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compile and warm up outside the capture
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times
