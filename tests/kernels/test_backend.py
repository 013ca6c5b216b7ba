"""Which implementation runs, and what the interpreter is protected from."""

import os
import subprocess
import sys

import pytest
import torch

from litellama import kernels
from litellama.kernels import backend


def test_cpu_tensors_run_in_torch_by_default(monkeypatch):
    monkeypatch.setattr(backend, "launch", None)
    assert not backend.uses_triton(torch.ones(1))
    with kernels.use_backend("torch"):
        assert not backend.uses_triton(torch.ones(1))


def test_use_backend_is_undone_after_an_error():
    with pytest.raises(RuntimeError, match="inside"), kernels.use_backend("torch"):
        raise RuntimeError("inside")
    assert backend._backend.get() == "auto"


def test_unknown_backends_are_refused():
    with (
        pytest.raises(ValueError, match=r"'cuda'.*auto, triton, torch"),
        kernels.use_backend("cuda"),
    ):
        pass


@pytest.mark.parametrize("kernel", ["mul", "add"])
def test_bfloat16_survives_the_interpreter(kernel):
    """Without the detour through float32 the interpreter computes nonsense."""
    if not backend.interpreting():
        pytest.skip("Triton compiles here")
    a, b = torch.randn(2, 300).bfloat16()
    with kernels.use_backend("triton"):
        if kernel == "mul":
            assert torch.equal(kernels.mul(a, b), a * b)
        else:
            weight = torch.ones(300).bfloat16()
            assert torch.equal(kernels.skip_rms_norm(a, b, weight)[1], a + b)


def test_a_compiling_triton_refuses_cpu_tensors():
    """Asked for in a fresh process, because Triton settles this when it is first imported."""
    code = (
        "import torch\nfrom litellama import kernels\n"
        "with kernels.use_backend('triton'):\n    kernels.mul(torch.ones(3), torch.ones(3))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "set TRITON_INTERPRET=1" in result.stderr.splitlines()[-1]


def test_importing_the_package_does_not_import_the_heavy_optional_parts():
    code = (
        "import sys, litellama, litellama.kernels\n"
        "print([m for m in ('transformers', 'gguf', 'matplotlib', 'IPython', 'ipywidgets')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
