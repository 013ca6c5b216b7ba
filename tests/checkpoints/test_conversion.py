"""Conversion: the same tensors in a folder that is whole or not there."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from litellama.checkpoints import convert, safetensors_files
from litellama.checkpoints.safetensors_files import INDEX, open_checkpoint
from litellama.errors import CheckpointError
from litellama.models import read_config
from tests.checkpoint_maker import make_llama


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def test_a_gguf_file_becomes_a_folder_that_everything_opens(tiny_gguf, tmp_path, home):
    folder = convert(tiny_gguf, tmp_path / "new" / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    assert model.generation_config.eos_token_id == end
    assert read_config(folder).eos_token_ids == (end,)


def test_a_folder_is_copied_without_code_or_pickles(tiny_llama, tmp_path, home):
    src = make_llama(tmp_path, max_shard_size="20KB")
    assert (src / INDEX).exists()
    for name in ("modeling_evil.py", "pytorch_model.bin", "notes.txt"):
        (src / name).write_text("")
    folder = convert(src, tmp_path / "copy")
    assert open_checkpoint(folder).keys() == open_checkpoint(src).keys()
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert not list(folder.glob("*.py")) + list(folder.glob("*.bin")) + list(folder.glob("*.txt"))
    original = tensors_of(src)
    assert all(torch.equal(tensor, original[n]) for n, tensor in tensors_of(folder).items())
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (src / name).read_bytes()


@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_cast_is_that_of_torch_and_is_declared(
    tiny_llama, tiny_gguf, tmp_path, home, dtype, kind
):
    folder = convert(tiny_llama if kind == "folder" else tiny_gguf, tmp_path / "cast", dtype)
    original = tensors_of(tiny_llama)
    for name, tensor in tensors_of(folder).items():
        assert torch.equal(tensor, original[name].to(getattr(torch, dtype)))
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == dtype
    assert "torch_dtype" not in config


def test_a_cast_leaves_integers_alone(tiny_llama, tmp_path, home):
    src = make_llama(tmp_path / "src")
    tensors = load_file(src / "model.safetensors") | {"position_ids": torch.arange(5)}
    save_file(tensors, src / "model.safetensors")
    made = tensors_of(convert(src, tmp_path / "cast", "bfloat16"))
    assert torch.equal(made["position_ids"], torch.arange(5))


def test_a_large_model_is_written_in_shards(tiny_gguf, tiny_llama, tmp_path, home):
    folder = convert(tiny_gguf, tmp_path / "sharded", max_shard=70_000)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert all((folder / name).stat().st_size < 75_000 for name in names)
    original, loaded = load_file(tiny_llama / "model.safetensors"), tensors_of(folder)
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    AutoModelForCausalLM.from_pretrained(folder)


def test_what_cannot_be_converted_leaves_nothing(tiny_llama, tmp_path, home):
    broken = tmp_path / "broken"
    broken.mkdir()
    dst = tmp_path / "dst"
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nowhere", dst)
    with pytest.raises(CheckpointError, match="neither"):
        convert(broken, dst)
    save_file({"w": torch.ones(1)}, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        convert(broken, dst)
    (broken / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        convert(broken, dst)
    (broken / "file.gguf").write_bytes(b"not a GGUF file")
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        convert(broken / "file.gguf", dst)
    with pytest.raises(CheckpointError, match=r"dtype must be one of.*'int8'"):
        convert(tiny_llama, dst, dtype="int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "home"]


def test_an_occupied_destination_is_refused(tiny_llama, tmp_path, home):
    (tmp_path / "mine").write_text("precious")
    for dst in (tmp_path / "mine", tmp_path, tiny_llama):
        with pytest.raises(CheckpointError, match="already exists"):
            convert(tiny_llama, dst)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_disk_that_fills_halfway_leaves_nothing(tiny_gguf, tmp_path, home, monkeypatch):
    written = []

    def full(tensor):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(tensor.name)
        return bytes(tensor.nbytes)

    monkeypatch.setattr(safetensors_files, "_bytes", full)
    with pytest.raises(CheckpointError, match="full"):
        convert(tiny_gguf, tmp_path / "dst")
    assert written
    assert not (tmp_path / "dst").exists()
    assert not list(tmp_path.glob(".dst.partial-*"))
    monkeypatch.undo()
    assert open_checkpoint(convert(tiny_gguf, tmp_path / "dst"))


def test_no_room_is_known_before_writing(tiny_gguf, tmp_path, home, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(CheckpointError, match="are needed"):
        convert(tiny_gguf, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()
