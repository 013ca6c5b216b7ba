"""Write a GGUF file as llama.cpp's converter does, independently of how litellama reads one."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

FAMILIES = {name: gguf.MODEL_ARCH[name.upper()] for name in ("llama", "qwen2", "qwen3")}
CONTROL = gguf.TokenType.CONTROL


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of q and k: the halves of each head, alternating."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    folder: Path,
    path: Path,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    quantised: gguf.GGMLQuantizationType | None = None,
    arch: str = "llama",
    pre: str = "gpt-2",
) -> Path:
    """``folder`` (a Hugging Face checkpoint of the architecture) as the GGUF file ``path``.

    ``metadata`` adds integers, floats and strings; ``tensors`` adds to the tensors; ``quantised``
    is the type in which matrices are stored.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, arch)
    _write_sizes(writer, config)
    _write_tokenizer(writer, folder, config, pre)
    for key, value in (metadata or {}).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](key, value)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(FAMILIES.get(arch, gguf.MODEL_ARCH.LLAMA), 8)
    for name, weight in load_file(folder / "model.safetensors").items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        count = next((heads[part] for part in heads if part in theirs), None)
        count = count if arch == "llama" else None  # only Llama's rows are interleaved
        _add(writer, theirs, interleave(weight, count) if count else weight, quantised)
    for name, weight in (tensors or {}).items():
        _add(writer, name, weight, None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if "head_dim" in config:  # Qwen2 has none
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_key_length(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(
    writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any], pre: str
) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    added = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if t in added else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def _add(
    writer: gguf.GGUFWriter,
    name: str,
    weight: np.ndarray,
    quantised: gguf.GGMLQuantizationType | None,
) -> None:
    if quantised is None or weight.ndim < 2:
        writer.add_tensor(name, np.ascontiguousarray(weight))
    else:
        writer.add_tensor(name, gguf.quants.quantize(weight, quantised), raw_dtype=quantised)
