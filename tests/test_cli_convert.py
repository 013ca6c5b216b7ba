"""`litellama convert`: the option --dtype, and the errors of the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from litellama.cli import app


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLAMA_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_casts_the_weights(tiny_llama: Path, tmp_path: Path, dtype: str) -> None:
    dst = tmp_path / "made"
    result = CliRunner().invoke(app, ["convert", str(tiny_llama), str(dst), "--dtype", dtype])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"converted {tiny_llama} into {dst}\n"
    tensors, original = (load_file(f / "model.safetensors") for f in (dst, tiny_llama))
    assert tensors.keys() == original.keys()
    for name, weight in original.items():
        assert torch.equal(tensors[name], weight.to(getattr(torch, dtype))), name
        assert tensors[name].dtype == getattr(torch, dtype)
    assert json.loads((dst / "config.json").read_text())["dtype"] == dtype


def test_without_dtype_the_weights_are_kept(tiny_llama: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    args = ["convert", str(tiny_llama), str(half), "--dtype", "bfloat16"]
    assert CliRunner().invoke(app, args).exit_code == 0
    again = tmp_path / "again"
    assert CliRunner().invoke(app, ["convert", str(half), str(again)]).exit_code == 0
    assert {t.dtype for t in load_file(again / "model.safetensors").values()} == {torch.bfloat16}


def test_a_dtype_that_is_none_is_refused_before_any_work(tiny_llama: Path, tmp_path: Path) -> None:
    args = ["convert", str(tiny_llama), str(tmp_path / "made"), "--dtype", "int8"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert "int8" in result.output
    assert "bfloat16" in result.output
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_converted_is_one_line_and_no_folder(tmp_path: Path) -> None:
    source = tmp_path / "not.gguf"
    source.write_bytes(b"hello world")
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "made")])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {source} is not a GGUF file")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()
