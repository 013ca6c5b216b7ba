"""Every kernel test runs in Triton: interpreted on a CPU, and compiled where there is a GPU.

Memory that torch hands out uninitialised holds NaN, and so does the memory around it: an element
that a kernel forgets to write, reads before it is written, or writes beside its place, shows.
"""

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from litellama import kernels

GUARD = 64  # elements before and after each allocation


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device to make tensors on, with the Triton backend chosen for the test."""
    if request.param == "interpreter" and torch.cuda.is_available():
        pytest.skip("Triton compiles in this process; the gpu variant of this test runs instead")
    torch.manual_seed(0)
    with kernels.use_backend("triton"):
        yield "cuda" if request.param == "gpu" else "cpu"


@pytest.fixture(autouse=True)
def one_large_test_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests marked ``large`` wait for each other, in other processes too, and leave no memory."""
    if not request.node.get_closest_marker("large"):
        yield
        return
    torch.manual_seed(0)
    with FileLock(Path(tempfile.gettempdir()) / "litellama_large_tests.lock"):
        yield
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def poisoned_memory(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """``torch.empty`` and its kin return poison with a guard of poison at either end.

    Poison is NaN, or the least integer.  Tests marked ``large`` have no room for guards, and those
    marked ``sanitize`` no need: the memory checker sees any step beyond an allocation.
    """
    if request.node.get_closest_marker("sanitize"):
        yield
        return
    guarded: list[torch.Tensor] = []
    guards = not request.node.get_closest_marker("large")

    def poisoned(allocate):
        def allocate_poisoned(*args, **kwargs):
            out = allocate(*args, **kwargs)
            if out.dtype == torch.bool or out.is_complex() or out.is_meta:
                return out
            if not guards:
                return out.fill_(poison(out.dtype))
            span = out.untyped_storage().nbytes() // out.element_size()
            whole = out.new_full((span + 2 * GUARD,), poison(out.dtype))
            guarded.append(whole)
            return whole.as_strided(out.shape, out.stride(), GUARD)

        return allocate_poisoned

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))
    yield
    for whole in guarded:
        for guard in (whole[:GUARD], whole[-GUARD:]):
            intact = guard.isnan() if guard.is_floating_point() else guard == poison(guard.dtype)
            assert intact.all(), "a kernel wrote before or after the tensor that it was given"


def poison(dtype: torch.dtype) -> float:
    return torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min
