"""Fixtures shared by all tests: small random checkpoints, and the default model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import litellama  # noqa: F401  (settles Triton's interpreter before transformers imports Triton)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.browser import desk
from tests.checkpoint_maker import make_llama

LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU on a machine that has none, and say how much that is."""
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """One line about what was left out, at the end, where it is read."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"no GPU on this machine: {count} tests marked gpu left out")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama checkpoint with a byte-level tokenizer and a chat template."""
    return make_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the default model; an error, not a skip, when it has not been pulled."""
    from litellama.checkpoints import cache_dir

    folder = cache_dir() / "models" / "smollm2"
    if not (folder / "config.json").exists():
        pytest.fail(f"{folder} is not there: run `litellama pull smollm2` (make test does)")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A real Chromium, one for all tests: Playwright cannot be begun twice."""
    if desk.MISSING:
        pytest.skip(f"no {' and '.join(desk.MISSING)} here: not tried in a browser")
    with desk.chromium() as started:
        yield started


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe."""
    source = desk.axe(tmp_path_factory.mktemp("axe"))
    if not source:
        pytest.skip(f"{desk.AXE} cannot be had from npm: the accessibility check is left out")
    return source


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a model runs: the CPU, and the GPU where there is one."""
    return request.param
