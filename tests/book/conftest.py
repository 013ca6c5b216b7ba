"""The site, built once for all tests of it; they are left out where its packages are missing."""

import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The folder of the built site; with BOOK set, the one named there."""
    if "BOOK" in os.environ:
        return Path(os.environ["BOOK"])
    for package in ("myst_nb", "sphinx_book_theme"):
        pytest.importorskip(package, reason="the book's packages are missing: make book")
    from book.__main__ import build

    out = tmp_path_factory.mktemp("site") / "book"
    assert build(out) == 0, "Sphinx warned: see above"
    return out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="session")
def address(book):
    """The site behind a local address, for what a browser refuses to do with files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
