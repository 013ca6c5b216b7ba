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

LEFT_OUT = pytest.StashKey[dict[str, int]]()  # why, and how many tests
BROWSER = Path(__file__).parent / "browser"
RECOGNISED = "test_wrong_answers_get_their_own_diagnosis["


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU, or a browser, where there is none."""
    if not torch.cuda.is_available():
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        leave_out(config, items, gpu, "no GPU on this machine: {} tests marked gpu left out")
    if desk.MISSING:
        chat = [item for item in items if BROWSER in item.path.parents]
        missing = " and ".join(desk.MISSING)
        leave_out(config, items, chat, f"no {missing} here: {{}} browser tests left out")


def leave_out(
    config: pytest.Config, items: list[pytest.Item], those: list[pytest.Item], why: str
) -> None:
    if those:
        items[:] = [item for item in items if item not in set(those)]
        config.hook.pytest_deselected(items=those)
        config.stash[LEFT_OUT][why] = len(those)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist tells the first one what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    # Every process collects all tests, and so leaves out the same.
    node.config.stash[LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """At the end, where it is read: what was left out, and what the exercises' proofs show."""
    for why, count in config.stash[LEFT_OUT].items():
        terminalreporter.write_line(why.format(count))
    passed, failed = (
        sum(RECOGNISED in report.nodeid for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed")
    )
    if passed + failed:
        terminalreporter.write_line(
            f"exercises: {passed} of {passed + failed} wrong answers recognised, "
            "each by its own diagnosis"
        )


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
