"""Headers are proved before anything is read; every kind of damage has its own message."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from litellama.checkpoints import safetensors_files as st
from litellama.errors import CheckpointError


def write_raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header; ``length`` is what the first 8 bytes claim."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list, start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write_shards(folder: Path, shards: dict[str, dict[str, torch.Tensor]]) -> dict:
    weight_map = {}
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
    (folder / st.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_reads_what_safetensors_writes(tmp_path: Path):
    tensors = {
        "matrix": torch.randn(3, 5),
        "half": torch.randn(7).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "scalar": torch.tensor(2.5),
        "nothing": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / st.SINGLE, metadata={"format": "pt"})
    found = st.open_checkpoint(tmp_path)
    assert found.keys() == tensors.keys()
    with (tmp_path / st.SINGLE).open("rb", buffering=0) as file:
        for name, tensor in tensors.items():
            assert found[name].shape == tuple(tensor.shape)
            assert st.DTYPES[found[name].dtype] == tensor.dtype
            out = torch.empty_like(tensor)
            st.read_tensor(file, found[name], out)
            assert torch.equal(out, tensor)


@pytest.mark.parametrize("max_shard", [10**9, 100, 1], ids=["single", "shards", "one each"])
def test_writes_what_safetensors_reads(tmp_path: Path, max_shard: int):
    tensors = {
        "a": torch.randn(3).half(),  # 6 bytes: what follows must still be aligned
        "b": torch.randn(5, 3),
        "c": torch.randn(4, 5),
        "d": torch.randn(1).bfloat16(),
    }
    new = [
        st.NewTensor(name, st.DTYPE_NAMES[t.dtype], tuple(t.shape), lambda t=t: t)
        for name, t in tensors.items()
    ]
    written = []
    st.write_checkpoint(tmp_path, new, written.append, max_shard)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == {10**9: 1, 100: 2, 1: 4}[max_shard]
    assert (tmp_path / st.INDEX).exists() == (len(files) > 1)
    assert sum(written) == sum(t.nbytes for t in tensors.values())
    loaded = {name: t for file in files for name, t in load_file(file).items()}
    assert loaded.keys() == tensors.keys() == st.open_checkpoint(tmp_path).keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    for stored in st.open_checkpoint(tmp_path).values():
        assert stored.start % st.ITEM_SIZES[stored.dtype] == 0


BROKEN_FILES = {
    "too short": (b"abc", "3 bytes, too few"),
    "empty": (b"", "is empty"),
    "header beyond the file": (struct.pack("<Q", 1000) + b"{}", "truncated or corrupted"),
    "header of exabytes": (b"\xff" * 8 + b"{}", "truncated or corrupted"),
    "header of no bytes": (struct.pack("<Q", 0), "truncated or corrupted"),
    "a pickle": (b"\x80\x04\x95" + b"x" * 100, "truncated or corrupted"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "truncated or corr"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_files_that_are_not_safetensors(tmp_path: Path, name: str):
    content, message = BROKEN_FILES[name]
    (tmp_path / st.SINGLE).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        st.open_checkpoint(tmp_path)
    assert str(tmp_path / st.SINGLE) in str(error.value)


BROKEN_HEADERS = {
    "not JSON": (b"{nonsense}", "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "not JSON"),
    "nested without end": (b"[" * 100_000, "not JSON"),
    "a list": ([1, 2], "not a JSON object"),
    "an entry that is no object": ({"w": 3}, "entry for 'w'"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [2]}}, "entry for 'w'"),
    "three offsets": ({"w": entry([2], 0, 8) | {"data_offsets": [0, 8, 8]}}, "entry for 'w'"),
    "a negative size": ({"w": entry([-2], 0, 8)}, "entry for 'w'"),
    "a size that is a fraction": ({"w": entry([2.0], 0, 8)}, "entry for 'w'"),
    "a size that is a flag": ({"w": entry([True, 2], 0, 8)}, "entry for 'w'"),
    "bytes that do not fit the shape": ({"w": entry([3], 0, 8)}, "12 bytes, and its byte range"),
    "a gap": ({"w": entry([1], 4, 8)}, "was expected as its start"),
    "an overlap": ({"v": entry([2], 0, 8), "w": entry([1], 4, 8)}, "was expected as its start"),
    "a range that runs backwards": ({"w": entry([1], 8, 4, "F4")}, "was expected as its start"),
    "more than the file": ({"w": entry([100], 0, 400)}, "is truncated"),
    "less than the file": ({"w": entry([1], 0, 4)}, "4 bytes follow"),
    "a name twice": (
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        "'w' appears twice",
    ),
}


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_headers_that_are_broken(tmp_path: Path, name: str):
    header, message = BROKEN_HEADERS[name]
    path = write_raw(tmp_path / st.SINGLE, header, data=bytes(8))
    with pytest.raises(CheckpointError, match=message) as error:
        st.open_checkpoint(tmp_path)
    assert str(path) in str(error.value)


def test_every_truncation_of_a_file_is_refused(tmp_path: Path):
    save_file({"w": torch.randn(4, 4), "v": torch.randn(3)}, tmp_path / st.SINGLE)
    whole = (tmp_path / st.SINGLE).read_bytes()
    for size in range(len(whole)):
        (tmp_path / st.SINGLE).write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            st.open_checkpoint(tmp_path)


def test_a_file_cut_between_check_and_read_is_refused(tmp_path: Path):
    save_file({"w": torch.randn(64)}, tmp_path / st.SINGLE)
    stored = st.open_checkpoint(tmp_path)["w"]
    (tmp_path / st.SINGLE).write_bytes((tmp_path / st.SINGLE).read_bytes()[:-4])
    with (
        stored.file.open("rb", buffering=0) as file,
        pytest.raises(CheckpointError, match="was cut while it was read"),
    ):
        st.read_tensor(file, stored, torch.empty(64))


def test_folders_without_safetensors(tmp_path: Path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        st.open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="neither"):
        st.open_checkpoint(tmp_path)
    (tmp_path / "model.Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"GGUF.*model\.Q4\.gguf"):
        st.open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*only safetensors"):
        st.open_checkpoint(tmp_path)
    (tmp_path / st.SINGLE).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        st.open_checkpoint(tmp_path)


def test_shards_are_opened_through_their_index(tmp_path: Path):
    write_shards(tmp_path, {"one.safetensors": {"a": torch.ones(2)}, "two.safetensors": {}})
    with pytest.raises(CheckpointError, match="neither"):
        st.open_checkpoint(tmp_path / "..")
    assert st.open_checkpoint(tmp_path)["a"].file.name == "one.safetensors"


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/../../secret.safetensors",
        "..\\secret.safetensors",
        "C:\\secret.safetensors",
        "C:secret.safetensors",
        "\\secret.safetensors",
        "a\0b",
        "",
        ".",
        7,
        None,
    ],
)
def test_an_index_that_leaves_its_folder_is_refused(tmp_path: Path, shard: object):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "secret.safetensors")
    (folder / st.INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="not a file inside the folder"):
        st.open_checkpoint(folder)


def test_shards_that_are_links_are_read(tmp_path: Path):
    """The hub's own cache keeps a model as links to files elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "blobs" / "123")
    (tmp_path / "snapshot" / st.SINGLE).symlink_to("../blobs/123")
    assert list(st.open_checkpoint(tmp_path / "snapshot")) == ["a"]


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', "{"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str):
    (tmp_path / st.INDEX).write_text(index)
    with pytest.raises(CheckpointError, match="is not an index"):
        st.open_checkpoint(tmp_path)


def test_an_index_and_its_shards_must_agree(tmp_path: Path):
    one, two = {"a": torch.ones(2)}, {"b": torch.ones(3)}
    weight_map = write_shards(tmp_path, {"one.safetensors": one, "two.safetensors": two})

    def opened_with(changes: dict) -> None:
        (tmp_path / st.INDEX).write_text(json.dumps({"weight_map": weight_map | changes}))
        st.open_checkpoint(tmp_path)

    with pytest.raises(CheckpointError, match=r"names three\.safetensors, not in"):
        opened_with({"c": "three.safetensors"})
    with pytest.raises(CheckpointError, match=r"puts c in two\.safetensors, which does not"):
        opened_with({"c": "two.safetensors"})
    with pytest.raises(CheckpointError, match=r"puts b in one\.safetensors, which does not"):
        opened_with({"b": "one.safetensors"})
    save_file(two | {"d": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match="does not name d"):
        opened_with({})
    save_file(two | one, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"a: in one\.safetensors and again in two"):
        opened_with({})
    (tmp_path / st.INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="names no tensor"):
        st.open_checkpoint(tmp_path)
