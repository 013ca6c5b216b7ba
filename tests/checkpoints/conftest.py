"""Fixtures for checkpoints: an empty cache folder for each test, and a tiny GGUF file."""

from pathlib import Path

import pytest

from tests.checkpoints.gguf_maker import write_gguf


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``LITELLAMA_HOME``."""
    folder = tmp_path / "home"
    monkeypatch.setenv("LITELLAMA_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_llama`` as a float32 GGUF file, in llama.cpp's names and order of rows."""
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")
