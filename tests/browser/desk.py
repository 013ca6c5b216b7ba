"""JupyterLab on a folder, and a page of a real Chromium that drives it, as a reader does.

Playwright comes with `pip install -e '.[browser]'`, Chromium with Debian's package of that name;
$LITELLAMA_CHROMIUM names another one, or, empty, none.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
AXE = "axe-core@4.14.1"
NAMES = ("chromium", "chromium-browser", "google-chrome")
# What $LITELLAMA_CHROMIUM names (none, if it is empty), or else the first that is installed.
CHROMIUM = os.environ.get("LITELLAMA_CHROMIUM", next(filter(None, map(shutil.which, NAMES)), ""))
MISSING = [
    what
    for what, there in (
        ("Chromium", CHROMIUM),
        ("playwright", importlib.util.find_spec("playwright")),
    )
    if not there
]


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
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return process
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError(f"{command[2:4]} did not start:\n{log.read_text()}")


def axe(folder: Path) -> str:
    """The source of the accessibility checker, from $AXE or from npm; empty if it cannot be had."""
    if "AXE" in os.environ:
        return Path(os.environ["AXE"]).read_text(encoding="utf-8")
    if not shutil.which("npm"):
        return ""
    try:
        subprocess.run(
            ["npm", "pack", AXE], cwd=folder, capture_output=True, check=True, timeout=120
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return ""
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        source = archive.extractfile("package/axe.min.js")
        return source.read().decode() if source else ""


@contextmanager
def jupyterlab(folder: Path) -> Iterator["Lab"]:
    """JupyterLab on a folder."""
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    process = serve(command, f"{url}/api", folder, folder / "lab.log")
    try:
        yield Lab(url, folder)
    finally:
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
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4, "nbformat_minor": 5,
        }  # fmt: skip
        (self.folder / f"{name}.ipynb").write_text(json.dumps(made), encoding="utf-8")
        return self.address(f"{name}.ipynb")

    def address(self, path: str) -> str:
        """Where a notebook is opened: in a workspace of its own, which restores no other tab."""
        return f"{self.url}/lab/workspaces/{Path(path).stem}/tree/{path}"


@contextmanager
def chromium() -> Iterator:
    """Chromium, with no window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Desk:
    """A page of the browser, and what its console said."""

    def __init__(self, browser, screenshots: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1250, "height": 1300})
        self.page.set_default_timeout(60_000)  # a machine may be busy
        self.screenshots, self.errors, self.requests = screenshots, [], []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def command(self, name: str, **arguments) -> None:
        """Carry out a command of JupyterLab, as its menus do."""
        # Nothing is waited for: what a command brings about is seen on the page.
        call = "([name, args]) => { window.jupyterapp.commands.execute(name, args); }"
        self.page.evaluate(call, [name, arguments])

    def open(self, url: str) -> None:
        """Open a notebook in JupyterLab and wait for its kernel."""
        self.page.goto(url, wait_until="domcontentloaded")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=180_000)
        # A command that comes before the kernel is asked which kernel it means.
        ready = "() => document.querySelector('#jp-main-statusbar').innerText.includes('| Idle')"
        self.page.wait_for_function(ready, timeout=180_000)
        self.page.wait_for_timeout(1000)

    def run_all(self, seconds: float = 300) -> None:
        """Run every cell and wait until the last one is done."""
        # What an earlier run left must not pass for the result of this one.
        self.command("notebook:clear-all-cell-outputs")
        self.command("notebook:run-all-cells")
        self.settle(seconds)

    def settle(self, seconds: float = 180) -> None:
        """Wait until no cell is running or waiting to run."""
        prompts = "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
        self.page.wait_for_function(
            f"{prompts}.every(prompt => /[0-9]/.test(prompt.textContent))", timeout=seconds * 1000
        )

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self.screenshots / f"{name}.png")

    def chat(self, index: int = 0):
        """The index-th chat on the page."""
        return self.page.locator(".llc").nth(index)

    def said(self, index: int = 0) -> str:
        """What the chat objects to."""
        return self.chat(index).locator(".llc-alert").first.inner_text()

    def send(self, text: str, index: int = 0) -> None:
        """Type a message and press Enter."""
        box = self.chat(index).get_by_label("Your message")
        box.fill(text)
        box.press("Enter")

    def wait_answer(self, count: int, index: int = 0, seconds: float = 180) -> None:
        """Wait until so many answers are complete."""
        self.page.wait_for_function(
            "([i, n]) => { const chat = document.querySelectorAll('.llc')[i];"
            " return !chat.classList.contains('llc-busy') &&"
            " chat.querySelectorAll('.llc-exchange').length === n; }",
            arg=[index, count], timeout=seconds * 1000,
        )  # fmt: skip

    def answer(self, index: int = 0) -> str:
        """The text of the last answer, as it stands on the page."""
        return self.chat(index).locator(".llc-markdown").last.inner_text()
