"""Every kernel test runs in Triton: interpreted on a CPU, and compiled where there is a GPU."""

from collections.abc import Iterator

import pytest
import torch

from litellama import kernels


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device to make tensors on, with the Triton backend chosen for the test."""
    if request.param == "interpreter" and torch.cuda.is_available():
        pytest.skip("Triton compiles in this process; the gpu variant of this test runs instead")
    torch.manual_seed(0)
    with kernels.use_backend("triton"):
        yield "cuda" if request.param == "gpu" else "cpu"
