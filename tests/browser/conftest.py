"""A real browser for the chat: JupyterLab, and Chromium driven by Playwright (``desk.py``).

Where one is missing these tests are left out (``tests/conftest.py``).  Every step leaves a picture
in $LITELLAMA_SCREENSHOTS, or else in pytest's folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.desk import Desk, Lab, jupyterlab


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
