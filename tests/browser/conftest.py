"""A real browser for the chat: JupyterLab, and Chromium driven by Playwright (``desk.py``).

Where one is missing these tests are left out, and the last lines of the run say so.  Every step
leaves a picture in $LITELLAMA_SCREENSHOTS, or else in pytest's folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.desk import MISSING, Desk, Lab, jupyterlab

HERE = Path(__file__).parent
LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of this folder where there is no browser to run them."""
    mine = [item for item in items if HERE in item.path.parents]
    if MISSING and mine:
        items[:] = [item for item in items if item not in mine]
        config.hook.pytest_deselected(items=mine)
        config.stash[LEFT_OUT] = len(mine)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Say what was left out."""
    if count := config.stash.get(LEFT_OUT, 0):
        what = " and ".join(MISSING)
        terminalreporter.write_line(f"no {what} here: {count} browser tests left out")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    """Where the pictures go."""
    given = os.environ.get("LITELLAMA_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab on a folder of its own."""
    with jupyterlab(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.fixture
def desk(browser, screenshots) -> Iterator[Desk]:
    made = Desk(browser, screenshots)
    yield made
    made.page.close()
