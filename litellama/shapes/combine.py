"""SmolLM2, and what was trained, as the folder of a LLaVA checkpoint.

The package ships the trained tensors only.  The folder that ``LLM`` and transformers open is made
from them and from SmolLM2 in the cache, once.
"""

import hashlib
import json
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from litellama.checkpoints import cache
from litellama.checkpoints.conversion import write_json
from litellama.checkpoints.safetensors_files import (
    DTYPES,
    NewTensor,
    StoredTensor,
    open_checkpoint,
    read_header,
    read_tensor,
    write_checkpoint,
)
from litellama.errors import CheckpointError
from litellama.shapes.tower import IMAGE_TOKEN_ID, MEAN, STD, VISION

IMAGE_TOKEN = "<image>"
WEIGHTS = "weights.safetensors"
LANGUAGE, TOWER = "language_model.", "vision_tower.vision_model."


def shipped_weights() -> Path:
    """The trained tensors of the package; CheckpointError where it came without them."""
    path = Path(str(files("litellama.shapes") / WEIGHTS))
    if not path.exists():
        raise CheckpointError(
            f"{path} is not part of this installation: train it on a GPU with `python -m "
            "litellama.shapes.train OUT`, then `python -m litellama.shapes.evaluate OUT` makes a "
            "folder that can be opened"
        )
    return path


def combine(language: Path, weights: Path, parent: Path) -> Path:
    """The folder in ``parent`` of this language model with these trained tensors, made if needed.

    Its name ends with a digest of the tensors, so that other tensors make another folder.  It
    appears complete or not at all.  Raises CheckpointError.
    """
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    dst = parent.absolute() / f"shapes-llava-{digest}"
    with cache.lock(dst):
        if not (dst / "config.json").is_file():
            with cache.making(dst) as scratch:
                fill(language, weights, scratch / "made")
    return dst


def fill(language: Path, weights: Path, folder: Path) -> None:
    """Write everything into the empty ``folder``."""
    write_json(folder / "config.json", config_of(language))
    write_json(folder / "preprocessor_config.json", preprocessor_config())
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((language / name).read_bytes())
    (folder / "tokenizer.json").write_text(renamed_token(language / "tokenizer.json"), "utf-8")
    trained = read_header(weights)
    tensors = [language_tensor(stored, trained) for stored in open_checkpoint(language).values()]
    tensors += [
        NewTensor(name, stored.dtype, stored.shape, partial(read, stored))
        for name, stored in trained.items()
        if not name.startswith(LANGUAGE)
    ]
    # transformers' tower has a norm after the last layer, which LLaVA does not use.
    hidden = VISION.hidden_size
    for part, make in (("weight", torch.ones), ("bias", torch.zeros)):
        name = f"{TOWER}post_layernorm.{part}"
        tensors.append(NewTensor(name, "F32", (hidden,), partial(make, hidden)))
    cache.require_space(folder, sum(tensor.nbytes for tensor in tensors))
    write_checkpoint(folder, tensors, lambda count: None)


def language_tensor(stored: StoredTensor, trained: dict[str, StoredTensor]) -> NewTensor:
    """One of the language model's, with its low-rank change added if it has one."""
    name = LANGUAGE + stored.name
    down, up = trained.get(f"{name}.A"), trained.get(f"{name}.B")

    def merged() -> torch.Tensor:
        weight = read(stored)
        if down is not None and up is not None:
            weight = (weight.float() + read(up).float() @ read(down).float()).to(weight.dtype)
        return weight

    return NewTensor(name, stored.dtype, stored.shape, merged)


def read(stored: StoredTensor) -> torch.Tensor:
    """The values of a stored tensor, in its own dtype."""
    values = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    with stored.file.open("rb", buffering=0) as file:
        read_tensor(file, stored, values)
    return values


def config_of(language: Path) -> dict[str, Any]:
    """The ``config.json`` of the whole."""
    text = json.loads((language / "config.json").read_text("utf-8"))
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": text.get("dtype", "float32"),
        "image_token_index": IMAGE_TOKEN_ID,
        "image_seq_length": VISION.num_image_tokens,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": text,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": VISION.hidden_size,
            "intermediate_size": VISION.intermediate_size,
            "num_hidden_layers": VISION.num_layers,
            "num_attention_heads": VISION.num_heads,
            "image_size": VISION.image_size,
            "patch_size": VISION.patch_size,
            "layer_norm_eps": VISION.layer_norm_eps,
            "hidden_act": VISION.activation,
        },
    }


def preprocessor_config() -> dict[str, Any]:
    """The ``preprocessor_config.json``: the shorter edge to the tower's size, the middle of it."""
    size = VISION.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "do_convert_rgb": True,
    }


def renamed_token(path: Path) -> str:
    """The tokenizer with ``<image>`` in the place of a special token that chats do not use."""
    tokenizer = json.loads(path.read_text("utf-8"))
    token = next(t for t in tokenizer["added_tokens"] if t["id"] == IMAGE_TOKEN_ID)
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.pop(token["content"], None)
    vocabulary[IMAGE_TOKEN] = IMAGE_TOKEN_ID
    token["content"] = IMAGE_TOKEN
    return json.dumps(tokenizer, ensure_ascii=False)
