"""Safetensors on disk: check every header before anything is read, and write file by file.

A safetensors file is 8 bytes (the header's length, little-endian), the header (JSON: each tensor's
dtype, shape and byte range), then the tensors' bytes with no gaps. Sharded checkpoints add
``model.safetensors.index.json``, which maps each tensor's name to its file. The format is described
at https://huggingface.co/docs/safetensors.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from litellama.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_HEADER = 100_000_000
"""Bytes; the limit that the safetensors library sets too, so that a header cannot fill memory."""

MAX_SHARD = 4 * 10**9
"""Bytes of tensors in one written file."""

ITEM_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: its bytes are ``file[start:end]``; ``dtype`` as in ``DTYPES``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


@dataclass(frozen=True)
class NewTensor:
    """One tensor to be written; ``read`` makes it, in ``dtype`` and ``shape``, when its turn comes.

    ``read`` may return a tensor or its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor | bytes]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


def open_checkpoint(folder: str | Path) -> dict[str, StoredTensor]:
    """Every tensor of a Hugging Face folder, by name; only headers are read.

    Raises CheckpointError if the folder or a file is missing, empty, truncated or corrupted, if the
    index and the shards disagree, or if the folder holds pickled weights only.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder: give a folder with config.json and {SINGLE}"
        )
    if (folder / SINGLE).exists():
        return read_header(folder / SINGLE)
    if (folder / INDEX).exists():
        return _open_shards(folder, _read_index(folder / INDEX))
    raise CheckpointError(_nothing_found(folder))


def _nothing_found(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"{folder} holds pickled weights only ({', '.join(pickles[:3])}): a pickle can run any "
            "code when it is read, so only safetensors are read. Look for a safetensors version of "
            "this model"
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return f"{folder} holds a GGUF file: give the file itself, {folder / ggufs[0]}"
    return f"{folder} has neither {SINGLE} nor {INDEX}: is this the folder of a model?"


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one safetensors file, by name; the byte ranges are proved to fit the file.

    Raises CheckpointError for a file that is missing, empty, truncated or corrupted.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise CheckpointError(_bad_length(path, size, length))
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    header = _parse_header(path, text)
    header.pop("__metadata__", None)
    tensors = {
        name: _stored_tensor(path, name, entry, 8 + length) for name, entry in header.items()
    }
    _check_ranges(path, list(tensors.values()), 8 + length, size)
    return tensors


def _bad_length(path: Path, size: int, length: int) -> str:
    if size == 0:
        return f"{path} is empty: download it again"
    if size < 8:
        return f"{path} has {size} bytes, too few for a safetensors file: download it again"
    return (
        f"{path} is not a safetensors file, or is truncated or corrupted: its first 8 bytes "
        f"announce a header of {length} bytes, and the file has {size}. Download it again"
    )


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{path} is corrupted: {twice!r} appears twice in its header")
        return dict(pairs)

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is corrupted: its header is not JSON ({error}). Download it again"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is corrupted: its header is not a JSON object")
    return header


def _stored_tensor(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """Check one header entry; offsets become absolute positions in the file."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = [*shape, start, end]
        sound = isinstance(dtype, str) and all(type(n) is int and n >= 0 for n in counts)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path} is corrupted: the header's entry for {name!r} is {entry!r}")
    # A dtype this table lacks is refused when the tensor is used, by name.
    if dtype in ITEM_SIZES and end - start != math.prod(shape) * ITEM_SIZES[dtype]:
        raise CheckpointError(
            f"{path} is corrupted: {name!r} is {dtype} {shape}, "
            f"{math.prod(shape) * ITEM_SIZES[dtype]} bytes, and its byte range holds {end - start}"
        )
    return StoredTensor(name, dtype, tuple(shape), path, data_start + start, data_start + end)


def _check_ranges(path: Path, tensors: list[StoredTensor], data_start: int, size: int) -> None:
    """The tensors must lie end to end and fill the file."""
    position = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != position or tensor.end < tensor.start:
            raise CheckpointError(
                f"{path} is corrupted: {tensor.name!r} is at bytes {tensor.start} to {tensor.end}, "
                f"and {position} was expected as its start"
            )
        position = tensor.end
    if size < position:
        raise CheckpointError(
            f"{path} is truncated: its header describes {position} bytes, and the file has {size}. "
            "Download it again"
        )
    if size > position:
        raise CheckpointError(
            f"{path} is corrupted: {size - position} bytes follow the last tensor. "
            "Download it again"
        )


def read_tensor(opened: RawIOBase, tensor: StoredTensor, out: torch.Tensor) -> None:
    """Read ``tensor`` from its file, opened unbuffered, into the contiguous CPU tensor ``out``.

    ``out`` has the tensor's dtype and shape. Raises CheckpointError if the file has become shorter.
    """
    free = out.view(-1).view(torch.uint8).numpy().data if out.numel() else memoryview(b"")
    opened.seek(tensor.start)
    while len(free):
        count = opened.readinto(free)  # one call reads 2 GB at most
        if not count:
            raise CheckpointError(f"{tensor.file} was cut while it was read: download it again")
        free = free[count:]


def _read_index(path: Path) -> dict[str, str]:
    """The map of tensor name to shard name, each shard name a plain path inside the folder."""
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = list(weight_map.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not an index of shards (JSON with a weight_map): {error!r}"
        ) from error
    if not pairs:
        raise CheckpointError(f"{path} names no tensor: its weight_map is empty")
    for name, shard in pairs:
        if not isinstance(shard, str) or not _stays_inside(shard):
            raise CheckpointError(
                f"{path} puts {name!r} in {shard!r}, which is not a file inside the folder: this "
                "checkpoint is broken or malicious, do not use it"
            )
    return weight_map


def _stays_inside(name: str) -> bool:
    """Whether a relative file name stays in its folder on every platform.

    Names are judged, not what they resolve to: the hub's own cache keeps its files as links.
    """
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    parts = {*windows.parts, *posix.parts}
    anchored = bool(windows.drive or windows.root) or posix.is_absolute()
    return bool(parts) and not anchored and ".." not in parts and "\0" not in name


def _open_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, StoredTensor]:
    index = folder / INDEX
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        raise CheckpointError(
            f"{index} names {few(missing)}, not in {folder}: download the missing files"
        )
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        header = read_header(folder / shard)
        if twice := sorted(header.keys() & tensors.keys()):
            raise CheckpointError(
                f"{few(twice)}: in {tensors[twice[0]].file.name} and again in {shard}, in {folder}"
            )
        promised = {name for name, where in weight_map.items() if where == shard}
        if absent := sorted(promised - header.keys()):
            raise CheckpointError(f"{index} puts {few(absent)} in {shard}, which does not hold it")
        tensors.update(header)
    if unnamed := sorted(tensors.keys() - weight_map.keys()):
        raise CheckpointError(f"{index} does not name {few(unnamed)}, which its shards hold")
    return tensors


def few(names: list[str], shown: int = 3) -> str:
    """The first few names and how many there are: ``a, b, c (7 in all)``."""
    listed = ", ".join(names[:shown])
    return listed if len(names) <= shown else f"{listed}, ... ({len(names)} in all)"


def write_checkpoint(
    folder: Path,
    tensors: Iterable[NewTensor],
    advance: Callable[[int], None],
    max_shard: int = MAX_SHARD,
) -> None:
    """Write ``model.safetensors`` into ``folder``; above ``max_shard`` bytes, shards and an index.

    One tensor at a time is in memory. ``advance`` is told the bytes written.
    """
    shards = list(_split(tensors, max_shard))
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0], advance)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, advance)
        weight_map.update({tensor.name: name for tensor in shard})
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def _split(tensors: Iterable[NewTensor], max_shard: int) -> Iterator[list[NewTensor]]:
    shard: list[NewTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.nbytes > max_shard:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.nbytes
    yield shard


def _write_file(path: Path, tensors: list[NewTensor], advance: Callable[[int], None]) -> None:
    # Wide items first, so that every tensor starts at a multiple of its item size.
    tensors = sorted(tensors, key=lambda tensor: -ITEM_SIZES[tensor.dtype])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        offsets = [position, position + tensor.nbytes]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        position = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(_bytes(tensor))
            advance(tensor.nbytes)


def _bytes(tensor: NewTensor) -> Any:
    """The tensor's bytes, without a copy where it is already contiguous."""
    data: Any = tensor.read()
    if isinstance(data, torch.Tensor):
        data = data.to(DTYPES[tensor.dtype]).contiguous().view(-1).view(torch.uint8).numpy().data
    if len(data) != tensor.nbytes:
        raise CheckpointError(
            f"{tensor.name!r} has {len(data)} bytes where {tensor.nbytes} were announced"
        )
    return data
