"""GGUF files: read right, named right, and refused with a reason when they are damaged."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from litellama import LLM
from litellama.checkpoints import convert
from litellama.checkpoints.gguf import (
    GGUFFile,
    generation_config,
    hf_config,
    hf_tensors,
    split_halves,
)
from litellama.errors import CheckpointError
from litellama.models import read_config
from tests.checkpoint_maker import make_decoder, make_llama
from tests.checkpoints.gguf_maker import interleave, write_gguf


def converted(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The config and the tensors that a GGUF file becomes."""
    file = GGUFFile(path)
    config = hf_config(file)
    return config, {t.name: t.read() for t in hf_tensors(file, config, torch.float32)}


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (3, 4), (6, 10), (4, 80)])
def test_split_halves_undoes_llama_cpps_order(heads: int, head_dim: int):
    weight = torch.randn(heads * head_dim, 7)
    stored = torch.from_numpy(interleave(weight.numpy(), heads))
    assert torch.equal(split_halves(stored, heads), weight)


def test_split_halves_by_eye():
    """One head of 4 rows: llama.cpp stores rows 0, 2, 1, 3."""
    stored = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    assert split_halves(stored, 1).flatten().tolist() == [0, 1, 2, 3]


def test_a_float32_file_becomes_exactly_the_model_it_was_made_from(tiny_llama, tiny_gguf):
    _, tensors = converted(tiny_gguf)
    original = load_file(tiny_llama / "model.safetensors")
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensors[name], original[name]) for name in original)


@pytest.mark.parametrize("untied", [False, True])
def test_the_config_says_what_the_original_said(tmp_path, untied):
    folder = make_llama(tmp_path, tie_word_embeddings=not untied, rms_norm_eps=1e-5)
    config = hf_config(GGUFFile(write_gguf(folder, tmp_path / "model.gguf")))
    original = json.loads((folder / "config.json").read_text())
    for key in (
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "eos_token_id",
    ):
        assert config[key] == original[key], key
    assert config["rope_theta"] == original["rope_parameters"]["rope_theta"]


@pytest.mark.parametrize("quantised", [None, "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_1"])
def test_transformers_reads_the_same_from_the_same_file(tmp_path, quantised):
    """transformers' own reading of the GGUF, tensor by tensor."""
    reference = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    folder = make_llama(tmp_path, **sizes, head_dim=16, intermediate_size=96)
    kind = quantised and gguf.GGMLQuantizationType[quantised]
    path = write_gguf(folder, tmp_path / "model.gguf", quantised=kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    theirs = reference.load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    _, ours = converted(path)
    assert ours.keys() == theirs["tensors"].keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs["tensors"][name]), name
    if quantised not in (None, "F16", "BF16"):
        original = load_file(folder / "model.safetensors")
        assert not all(torch.equal(ours[name], original[name]) for name in ours)


def test_a_converted_folder_gives_the_logits_of_the_original(tiny_llama, tiny_gguf, tmp_path):
    folder = convert(tiny_gguf, tmp_path / "converted")
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        ours, original = (
            AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (folder, tiny_llama)
        )
    assert torch.equal(ours, original)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_qwen_becomes_exactly_the_model_it_was_made_from(tmp_path, family):
    """Qwen's rows are not interleaved; Qwen2 has biases, Qwen3 norms and a head_dim of its own."""
    sizes = {"num_attention_heads": 5, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}
    folder = make_decoder(
        tmp_path, family, **sizes, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}
    )
    path = write_gguf(folder, tmp_path / "model.gguf", arch=family, pre="qwen2")
    made = convert(path, tmp_path / "converted")
    original, ours = (load_file(f / "model.safetensors") for f in (folder, made))
    assert ours.keys() == original.keys()
    assert all(torch.equal(ours[name], original[name]) for name in original)
    config = read_config(made)
    assert config == read_config(folder)
    assert config.rope_theta == 1e6
    ids = list(range(1, 40))
    logits = [LLM(f, device="cpu").logits(ids) for f in (made, folder)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("scaling", ["llama3", "linear"])
def test_rope_scaling_survives(tmp_path, scaling):
    """Llama 3's is stored as the divisor of each frequency; transformers computes those itself."""
    rope = {"rope_type": scaling, "factor": 32.0, "rope_theta": 500000.0}
    metadata, tensors = {}, {}
    if scaling == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": 8192}
    folder = make_llama(tmp_path, rope_parameters=rope, max_position_embeddings=131072)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if scaling == "llama3":
        plain = 500000.0 ** (-torch.arange(0, 10, 2) / 10)
        tensors["rope_freqs.weight"] = (plain / model.model.rotary_emb.inv_freq).numpy()
    else:
        metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 32.0}
    path = write_gguf(folder, tmp_path / "model.gguf", metadata, tensors)
    made = AutoModelForCausalLM.from_pretrained(convert(path, tmp_path / "converted"))
    assert torch.equal(made.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    expected = {key: value for key, value in rope.items() if key != "rope_theta"}
    assert hf_config(GGUFFile(path))["rope_scaling"] == expected


def test_the_ends_of_a_text_and_of_a_turn_both_stop_generation(tiny_llama, tmp_path):
    path = write_gguf(tiny_llama, tmp_path / "one.gguf", {"tokenizer.ggml.bos_token_id": 5})
    end = json.loads((tiny_llama / "config.json").read_text())["eos_token_id"]
    assert generation_config(GGUFFile(path)) == {"bos_token_id": 5, "eos_token_id": end}
    path = write_gguf(tiny_llama, tmp_path / "two.gguf", {"tokenizer.ggml.eot_token_id": 7})
    assert generation_config(GGUFFile(path)) == {"eos_token_id": [end, 7]}


UNSUPPORTED = {
    "another architecture": ({"arch": "mamba"}, "architecture 'mamba'"),
    "experts": ({"metadata": {"llama.expert_count": 8}}, "mixture of experts"),
    "yarn": ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "scales RoPE by 'yarn'"),
    "other factors": (
        {"tensors": {"rope_freqs.weight": np.linspace(1, 9, 5, dtype=np.float32)}},
        "not those of Llama 3",
    ),
    "a tensor that Llama lacks": (
        {"tensors": {"blk.0.attn_q_norm.weight": np.ones(4, np.float32)}},
        r"blk\.0\.attn_q_norm\.weight, which is not part",
    ),
    "a name that is none": (
        {"tensors": {"blk.0.weight": np.ones(4, np.float32)}},
        r"blk\.0\.weight, which is not part",
    ),
    "half a rotation": ({"metadata": {"llama.rope.dimension_count": 4}}, "rotates 4 of the 10"),
    "a string for a number": ({"metadata": {"llama.block_count": "three"}}, "cannot be right"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(tiny_llama, tmp_path, name, monkeypatch):
    changes, message = UNSUPPORTED[name]
    monkeypatch.setattr(gguf.GGUFWriter, "add_key_value", replace_key_value)
    path = write_gguf(tiny_llama, tmp_path / "model.gguf", **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        converted(path)
    assert str(path) in str(error.value)


def replace_key_value(self, key, value, kind, sub_type=None) -> None:
    """The writer's method, but a second value for a key replaces the first."""
    self.kv_data[0][key] = gguf.gguf_writer.GGUFValue(value=value, type=kind, sub_type=sub_type)


NOT_GGUF = {
    "empty": (b"", "is not a GGUF file"),
    "text": (b"hello world", "begins with b'hell'"),
    "a zip": (b"PK\x03\x04", "is not a GGUF file"),
    "magic only": (b"GGUF", "truncated"),
    "an old version": (struct.pack("<4sI", b"GGUF", 1), "GGUF version 1"),
    "big-endian": (struct.pack(">4sI", b"GGUF", 3), "GGUF version 50331648"),
    "pairs beyond the file": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60), "truncated"),
    "tensors beyond the file": (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0), "truncated"),
    "a string beyond the file": (
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**63),
        "truncated or corrupted",
    ),
    "an array beyond the file": (
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 4, 2**62),
        "truncated or corrupted",
    ),
    "a type that is none": (
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"k", 77),
        "77.* not a valid",
    ),
    "arrays in arrays without end": (
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"k", 9) + 5000 * struct.pack("<IQ", 9, 1),
        "recursion",
    ),
    "an alignment of none": (
        struct.pack("<4sIQQQ17sII", b"GGUF", 3, 0, 1, 17, b"general.alignment", 4, 0),
        "truncated or corrupted",
    ),
    "a key that is not text": (
        struct.pack("<4sIQQQ1sIB", b"GGUF", 3, 0, 1, 1, b"\xff", 0, 1),
        "utf-8",
    ),
    "a value that is not text": (
        struct.pack("<4sIQQQ1sIQ1s", b"GGUF", 3, 0, 1, 1, b"k", 8, 1, b"\xff"),
        "utf-8",
    ),
    "a tensor of many dimensions": (
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 1, 0, 1, b"w", 10**9),
        "truncated or corrupted: bytes 37 to 8000000037",
    ),
    "a tensor of a type that is none": (
        struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"w", 1, 4, 999, 0),
        "999.* not a valid GGMLQuantizationType",
    ),
    "a row that is no whole block": (
        struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"w", 1, 5, 2, 0),
        "not a multiple of Q4_0 block size",
    ),
    "a tensor beyond the file": (
        struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"w", 1, 4, 0, 2**40),
        "truncated or corrupted: bytes 1099511627840 to",
    ),
    "a tensor whose offset wraps to the header": (
        struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"w", 1, 4, 0, 2**64 - 64) + bytes(64),
        "overflow",
    ),
    "a tensor whose size wraps to nothing": (
        struct.pack("<4sIQQQ1sI2QIQ", b"GGUF", 3, 1, 0, 1, b"w", 2, 2**32, 2**32, 0, 0) + bytes(64),
        "truncated or corrupted",
    ),
    "a tensor twice": (
        struct.pack("<4sIQQ", b"GGUF", 3, 2, 0)
        + 2 * struct.pack("<Q1sIQIQ", 1, b"w", 1, 4, 0, 0)
        + bytes(64),
        "duplicated tensor with name w",
    ),
}


@pytest.mark.timeout(30)  # an array without end would fill the memory
@pytest.mark.parametrize("name", NOT_GGUF)
def test_files_that_are_not_gguf_or_are_damaged(tmp_path, name):
    content, message = NOT_GGUF[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        GGUFFile(path)
    assert str(path) in str(error.value)


def test_an_array_that_would_take_minutes_is_refused(tiny_gguf, monkeypatch):
    """The library makes an object of every item, and a file can hold a hundred million."""
    monkeypatch.setattr("litellama.checkpoints.gguf.MAX_READS", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 values"):
        GGUFFile(tiny_gguf)


def test_truncations_of_a_file_are_refused(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    end = max(t.data_offset + t.n_bytes for t in GGUFReader(tiny_gguf).tensors)
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 3000, 97), *range(3000, end, len(whole) // 50), end - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            GGUFFile(path)
    path.write_bytes(whole[:end])  # padding after the last tensor is nothing to miss
    assert GGUFFile(path).tensors.keys() == GGUFFile(tiny_gguf).tensors.keys()


@pytest.mark.timeout(60)
def test_flipped_bytes_are_read_or_refused_with_a_reason(tiny_gguf, tmp_path):
    """Whatever the damage to the header, the user sees a CheckpointError or a model."""
    whole = tiny_gguf.read_bytes()
    header = GGUFReader(tiny_gguf).data_offset
    draw, path, refused = np.random.default_rng(0), tmp_path / "flipped.gguf", []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in draw.integers(0, header, 3):
            damaged[place] = draw.integers(256)
        path.write_bytes(damaged)
        try:
            converted(path)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(str(path) in message for message in refused)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        GGUFFile(tmp_path / "nowhere.gguf")
