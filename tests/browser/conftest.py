"""A real browser for the chat: JupyterLab, and Chromium driven by Playwright.

Playwright comes with `pip install -e '.[browser]'`, Chromium with Debian's package of that name.
Where one is missing these tests are left out, and the last lines of the run say so.  Every step
leaves a picture in $LITELLAMA_SCREENSHOTS, or else in pytest's folder.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
MISSING = [
    what
    for what, there in (
        ("Chromium", CHROMIUM),
        ("playwright", importlib.util.find_spec("playwright")),
    )
    if not there
]
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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(command: list[str], url: str, folder: Path, log: Path) -> subprocess.Popen:
    """Start a server and wait until it answers."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return process
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError(f"{command[2:4]} did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator["Lab"]:
    """JupyterLab on a folder of its own."""
    folder = tmp_path_factory.mktemp("lab")
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    process = serve(command, f"{url}/api", folder, folder / "lab.log")
    yield Lab(url, folder)
    process.terminate()
    process.wait(20)


class Lab:
    """A running JupyterLab: its address, and the folder it serves."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook with code cells; returns its address in JupyterLab."""
        made = {
            "cells": [
                {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "outputs": [],
                 "execution_count": None, "source": source}
                for i, source in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            "nbformat": 4, "nbformat_minor": 5,
        }  # fmt: skip
        (self.folder / f"{name}.ipynb").write_text(json.dumps(made), encoding="utf-8")
        return f"{self.url}/lab/tree/{name}.ipynb?reset"

    def kernels(self) -> list[dict]:
        with urllib.request.urlopen(f"{self.url}/api/kernels", timeout=5) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
