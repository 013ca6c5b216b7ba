"""Turn a GGUF file or a Hugging Face folder into a converted folder, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from litellama.checkpoints import cache
from litellama.checkpoints.progress import progress
from litellama.checkpoints.safetensors_files import (
    DTYPE_NAMES,
    DTYPES,
    ITEM_SIZES,
    MAX_SHARD,
    NewTensor,
    StoredTensor,
    few,
    open_checkpoint,
    read_tensor,
    write_checkpoint,
)
from litellama.errors import CheckpointError

# What a folder is made of besides its tensors: never code, never pickles.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def convert(
    src: str | Path, dst: str | Path, dtype: str | None = None, max_shard: int = MAX_SHARD
) -> Path:
    """Make ``dst``, a Hugging Face folder of safetensors, from a .gguf file or such a folder.

    ``dtype`` ("float32", "float16" or "bfloat16") casts the floating-point tensors; without it a
    folder keeps its own and a GGUF file becomes float32. Above ``max_shard`` bytes the tensors go
    to several files. ``dst`` appears complete or not at all, and must not exist or be empty.
    Returns ``dst``. Raises CheckpointError.
    """
    src, dst = Path(src).expanduser(), Path(dst).expanduser().absolute()
    cast = _dtype(dtype)
    if not src.exists():
        raise CheckpointError(f"{src} does not exist: give a .gguf file or a Hugging Face folder")
    cache.refuse_occupied(dst)
    with cache.lock(dst), cache.making(dst) as scratch:
        convert_into(src, scratch / "made", cast, max_shard)
    return dst


def convert_into(
    src: Path, folder: Path, dtype: torch.dtype | None = None, max_shard: int = MAX_SHARD
) -> None:
    """Fill the empty ``folder`` from ``src``; ``convert`` adds the lock and the rename."""
    if src.is_dir():
        tensors = _copy_folder(src, folder, dtype)
    else:
        tensors = _read_gguf(src, folder, dtype or torch.float32)
    total = sum(tensor.nbytes for tensor in tensors)
    cache.require_space(folder, total)
    with progress("Writing safetensors", total) as advance:
        write_checkpoint(folder, tensors, advance, max_shard)


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    if name not in known:
        raise CheckpointError(f"dtype must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def _read_gguf(src: Path, folder: Path, dtype: torch.dtype) -> list[NewTensor]:
    """Write everything but the tensors; return those."""
    try:
        from litellama.checkpoints import gguf, tokenizer

        file = gguf.GGUFFile(src)
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"reading {src} needs the package {error.name}: pip install 'litellama[gguf]'"
        ) from error
    config = gguf.hf_config(file)
    tensors = gguf.hf_tensors(file, config, dtype)
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", gguf.generation_config(file))
    tokenizer.write_tokenizer(file, folder)
    return tensors


def _copy_folder(src: Path, folder: Path, dtype: torch.dtype | None) -> list[NewTensor]:
    """Copy everything but the tensors; return those."""
    stored = open_checkpoint(src)
    if unknown := sorted(name for name in stored if stored[name].dtype not in ITEM_SIZES):
        raise CheckpointError(
            f"{src}: {few(unknown)} is stored as {stored[unknown[0]].dtype}, which is not known"
        )
    try:
        config = json.loads((src / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{src / 'config.json'} cannot be read: {error}") from error
    for name in SIDE_FILES:
        if (src / name).is_file():
            shutil.copyfile(src / name, folder / name)
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
        write_json(folder / "config.json", config)
    return [_copied(tensor, dtype) for tensor in stored.values()]


def _copied(tensor: StoredTensor, dtype: torch.dtype | None) -> NewTensor:
    if dtype is None or tensor.dtype not in DTYPES:
        return NewTensor(tensor.name, tensor.dtype, tensor.shape, partial(_read_bytes, tensor))
    read: Callable[[], torch.Tensor] = partial(_read_cast, tensor, dtype)
    return NewTensor(tensor.name, DTYPE_NAMES[dtype], tensor.shape, read)


def _read_bytes(tensor: StoredTensor) -> bytes:
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        return file.read(tensor.end - tensor.start)


def _read_cast(tensor: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
    stored = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    with tensor.file.open("rb", buffering=0) as file:
        read_tensor(file, tensor, stored)
    return stored.to(dtype)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write one of the folder's JSON files, as people read them."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
