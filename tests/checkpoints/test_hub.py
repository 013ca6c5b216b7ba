"""The Hugging Face hub, stood in for by a small server on this machine that speaks its protocol."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from litellama.checkpoints import hub, pull
from litellama.checkpoints.safetensors_files import open_checkpoint
from litellama.errors import CheckpointError
from tests.checkpoint_maker import make_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the models in ``repositories``; a name in ``gated`` answers as a gated model does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.broken = False
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if self.server.broken:
            self.answer(500, b"", {})
        elif name in self.server.gated:
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif name not in self.server.repositories:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            self.serve(name, rest, path.startswith("/api/"))

    do_HEAD = do_GET

    def serve(self, name: str, rest: list[str], api: bool) -> None:
        files = self.server.repositories[name]
        if api and rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": file, "size": len(data), "oid": etag(data)}
                for file, data in files.items()
            ]
            self.answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        elif api:
            siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        else:
            file = "/".join(rest[2:])
            if self.command == "GET":
                self.server.sent.append(file)
            data = files[file]
            self.answer(200, data, {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        fetch = hub.fetch
        monkeypatch.setattr(
            hub, "fetch", lambda name, folder: fetch(name, folder, endpoint=server.url)
        )
        yield server
        server.shutdown()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sharded model, with much beside it that is not wanted."""
    folder = make_llama(tmp_path_factory.mktemp("model"), max_shard_size="100KB")
    unwanted = {
        "README.md": b"# a model",
        "modeling_evil.py": b"raise SystemExit('imported')",
        "pytorch_model.bin": b"a pickle",
        "consolidated.safetensors": b"a second copy",
        "original/model.safetensors": b"another format",
        "onnx/config.json": b"{}",
    }
    return files_of(folder) | unwanted


def test_pull_takes_safetensors_and_json_only(server: Hub, model: dict[str, bytes], home: Path):
    server.repositories["owner/name"] = model
    folder = pull("owner/name")
    assert folder == home / "models" / "owner--name"
    shards = {file for file in model if file.startswith("model-")}
    expected = shards | {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert len(shards) > 1
    assert {path.name for path in folder.rglob("*")} == set(server.sent) == expected
    assert all((folder / file).read_bytes() == model[file] for file in expected)
    assert open_checkpoint(folder)
    server.sent.clear()
    assert pull("owner/name") == folder
    assert server.sent == []


def refused(server: Hub, files: dict[str, bytes], home: Path, message: str) -> None:
    server.repositories["owner/name"] = files
    with pytest.raises(CheckpointError, match=message):
        pull("owner/name")
    assert not list((home / "models").iterdir())


def test_models_without_safetensors_are_refused_before_the_download(
    server: Hub, model: dict[str, bytes], home: Path
):
    bare = {"config.json": b"{}"}
    refused(server, {}, home, r"no config\.json")
    refused(server, bare | {"pytorch_model.bin": b""}, home, "pickled weights only")
    refused(server, bare | {"model.gguf": b""}, home, r"has no model\.safetensors")
    assert server.sent == []


def test_what_comes_damaged_is_refused(server: Hub, model: dict[str, bytes], home: Path):
    shard = next(file for file in model if file.startswith("model-"))
    refused(server, model | {shard: model[shard][:-8]}, home, "is truncated")
    refused(server, {f: d for f, d in model.items() if f != shard}, home, f"names {shard}, not in")
    server.repositories["owner/name"] = model
    assert pull("owner/name")


def test_code_from_the_hub_is_refused_only_if_it_would_be_needed(
    server: Hub, model: dict[str, bytes], home: Path
):
    config = json.loads(model["config.json"]) | {"auto_map": {"AutoModel": "modeling_evil.Evil"}}
    strange = model | {"config.json": json.dumps(config | {"model_type": "evil"}).encode()}
    refused(server, strange, home, r"model_type 'evil'.*never done")
    server.repositories["owner/name"] = model | {"config.json": json.dumps(config).encode()}
    assert pull("owner/name")


def test_a_model_larger_than_the_disk_is_refused(
    server: Hub, model: dict[str, bytes], home: Path, monkeypatch: pytest.MonkeyPatch
):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    refused(server, model, home, "are needed")
    assert server.sent == []


def test_models_that_are_not_there_or_not_for_everyone(server: Hub, home: Path):
    with pytest.raises(CheckpointError, match="has no model owner/name, or it is private"):
        pull("owner/name")
    server.gated.add("owner/name")
    with pytest.raises(CheckpointError, match=r"gated: accept.*huggingface\.co/owner/name"):
        pull("owner/name")
    assert not list((home / "models").iterdir())


def test_a_hub_that_fails(server: Hub, home: Path):
    server.broken = True
    with pytest.raises(CheckpointError, match="hub refused owner/name"):
        pull("owner/name")


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing listens on port 9; the reserved name .invalid never resolves."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for endpoint in ("http://127.0.0.1:9", "http://hub.invalid"):
        with pytest.raises(CheckpointError, match=r"no network.*owner/name was not fetched"):
            hub.fetch("owner/name", tmp_path, endpoint=endpoint, timeout=2)


def test_offline_by_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        hub.fetch("owner/name", tmp_path)
