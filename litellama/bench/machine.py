"""What a figure was measured on, and the ceiling it is compared with: memory bandwidth."""

import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import litellama

PACKAGES = ("torch", "triton", "transformers", "numpy")


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the command, for the head of a record."""
    record: dict[str, Any] = {
        "command": " ".join(["litellama", *sys.argv[1:]]),
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
    return record


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


def _elements(device: torch.device) -> int:
    return (GPU_BUFFER if device.type == "cuda" else CPU_BUFFER) // 4


def _fastest(function: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Seconds of the fastest repetition: a ceiling is what the machine can do undisturbed."""
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def synchronize(device: torch.device) -> None:
    """Wait for the GPU to finish; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
