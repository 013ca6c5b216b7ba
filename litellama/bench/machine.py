"""What a figure was measured on, and the ceilings: memory bandwidth, and matrix products."""

import functools
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import litellama

PACKAGES = ("torch", "triton", "transformers", "numpy", "liger-kernel")


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the command, for the head of a record."""
    record: dict[str, Any] = {
        "command": command(),
        "date": time.strftime("%Y-%m-%d"),
        "os": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "versions": versions(),
    }
    if device.type == "cuda":
        record["gpu"] = torch.cuda.get_device_name(device)
        record["versions"]["cudnn"] = torch.backends.cudnn.version()
    return record


def command() -> str:
    """The command as it can be repeated anywhere: of a path only the file's name."""
    return " ".join(["litellama", *(Path(word).name for word in sys.argv[1:])])


def versions() -> dict[str, str]:
    """Versions of what decides speed and numbers; an absent package is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    # The build of torch in use (2.13.0+cpu, +cu130 or +rocm7) says more than the package's version.
    return found | {"torch": str(torch.__version__), "litellama": litellama.__version__}


def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


# Buffers far larger than any cache: bytes on a CPU, and on a GPU.
CPU_BUFFER, GPU_BUFFER = 1 << 28, 1 << 30


@functools.cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of ``dst.copy_(src)``, bytes read and bytes written both counted."""
    src = torch.ones(_elements(device), device=device)
    dst = torch.empty_like(src)
    return 2 * src.nbytes / _fastest(lambda: dst.copy_(src), device)


@functools.cache
def read_bandwidth(device: torch.device) -> float:
    """Bytes per second of a sum: the speed at which this device reads without writing."""
    src = torch.ones(_elements(device), device=device)
    return src.nbytes / _fastest(src.sum, device)


@functools.cache
def matmul_rate(device: torch.device, size: int = 8192) -> float:
    """FLOP per second of a bfloat16 product of two square matrices, as torch multiplies them."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / _fastest(lambda: a @ b, device)


@contextmanager
def without_old_garbage() -> Iterator[None]:
    """Collect garbage now, and let Python not look through what there is already meanwhile.

    torch and transformers keep a million objects; a full collection goes through all of them, which
    takes tens of milliseconds, and hits whoever happens to be measured.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _elements(device: torch.device) -> int:
    return (GPU_BUFFER if device.type == "cuda" else CPU_BUFFER) // 4


def _fastest(function: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Seconds of the fastest repetition: a ceiling is what the machine can do undisturbed."""
    clock = _gpu_seconds if device.type == "cuda" else _cpu_seconds
    return min(clock(function) for _ in range(repeats))


def _cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _gpu_seconds(function: Callable[[], Any]) -> float:
    """Between two events, behind a first call that keeps the GPU busy while the host queues."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    function()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3
