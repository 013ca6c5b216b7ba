"""Every kernel compiles for NVIDIA and AMD GPUs, on a machine that has neither."""

import json
import subprocess
import sys

import pytest

from litellama import kernels
from litellama.kernels import backend
from tests.kernels.targets import TARGETS


def kernel_names() -> set[str]:
    """The Triton kernels of the package, by the names of their modules' attributes."""
    modules = (sys.modules[m] for m in sys.modules if m.startswith(kernels.__name__ + "."))
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}


@pytest.mark.skipif(not backend.HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_in_every_configuration(target):
    command = [sys.executable, "-m", "tests.kernels.compile_all", target]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    record = json.loads(result.stdout)
    assert {entry["kernel"] for entry in record} == kernel_names()
    for entry in record:
        assert entry["binary"] > 0
        assert entry["shared"] <= TARGETS[target].shared, entry
        assert entry["options"].get("num_warps", 4) * TARGETS[target].warp <= 1024, entry
        # One that starts early and does not wait reads what the kernel ahead has not written yet.
        assert entry["waits"] == bool(entry["constants"].get("OVERLAP")), entry
        assert entry["prefetches"] == bool(entry["constants"].get("PREFETCH")), entry
    ahead = {entry["kernel"] for entry in record if entry["prefetches"]}
    assert ahead == ({"few_rows_kernel", "flash_decoding_kernel"} if target == "sm_90" else set())
