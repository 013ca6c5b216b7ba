"""What a figure was measured on, and the ceiling it is compared with: copy bandwidth."""

import functools
import os
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "triton", "transformers", "numpy", "litellama")


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
    return found | {"torch": str(torch.__version__)}


def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of ``dst.copy_(src)``, read and written bytes both counted (a median).

    The buffers are far larger than any cache: 256 MB each on a CPU, 1 GB each on a GPU.
    """
    size = 1 << (30 if device.type == "cuda" else 28)
    src = torch.ones(size, dtype=torch.uint8, device=device)
    dst = torch.empty_like(src)
    seconds = []
    for _ in range(8):
        synchronize(device)
        start = time.perf_counter()
        dst.copy_(src)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size / statistics.median(seconds[2:])


def synchronize(device: torch.device) -> None:
    """Wait for the GPU to finish; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
