"""Where converted models are kept, and how a folder is made so that it is whole or not there."""

import errno
import glob
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from litellama.errors import CheckpointError


def cache_dir() -> Path:
    """The folder for models: ``LITELLAMA_HOME``, or ``litellama`` under the user's cache folder."""
    home = os.environ.get("LITELLAMA_HOME")
    if home:
        return Path(home).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().absolute() / "litellama"


@contextmanager
def making(dst: Path) -> Iterator[Path]:
    """Yield an empty scratch folder beside ``dst``; its subfolder ``made`` becomes ``dst``.

    The caller fills ``scratch / "made"`` and may put anything else beside it. A rename publishes it
    when the block ends, so a reader sees all of ``dst`` or nothing. When the block raises, the
    scratch folder is removed; when the process is killed, the next call for the same ``dst``
    removes it. Hold ``lock(dst)`` around this.

    Raises CheckpointError when the disk is full or a folder cannot be written.
    """
    scratch: Path | None = None
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        for stale in dst.parent.glob(f".{glob.escape(dst.name)}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{dst.name}.partial-", dir=dst.parent))
        (scratch / "made").mkdir()
        yield scratch
        publish(scratch / "made", dst)
    except OSError as error:
        raise CheckpointError(explain(error, dst)) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def publish(made: Path, dst: Path) -> None:
    """Rename ``made`` to ``dst``, which must be absent or an empty folder."""
    refuse_occupied(dst)
    if dst.exists():
        dst.rmdir()
    made.rename(dst)


def refuse_occupied(dst: Path) -> None:
    """Raise CheckpointError if ``dst`` is a file, or a folder with anything in it."""
    if dst.is_dir() and not any(dst.iterdir()):
        return
    if dst.exists() or dst.is_symlink():
        raise CheckpointError(
            f"{dst} already exists: name a folder that does not, or remove this one first"
        )


@contextmanager
def lock(dst: Path) -> Iterator[None]:
    """Hold the right to make ``dst``; a second process waits here until the first is done.

    The lock is the operating system's (``flock``), so it goes when its holder is killed.
    """
    from filelock import FileLock, Timeout

    name = hashlib.sha256(str(dst.absolute()).encode()).hexdigest()[:16]
    path = cache_dir() / "locks" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        try:
            held.acquire(timeout=0)
        except Timeout:
            print(f"Waiting for another process to make {dst} ...", file=sys.stderr, flush=True)
            held.acquire()
    except OSError as error:
        raise CheckpointError(explain(error, path)) from error
    try:
        yield
    finally:
        held.release()


def require_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError if the disk of ``folder`` has less than ``needed`` bytes free."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise CheckpointError(
            f"{there} has {free / 1e9:.2f} GB free and {needed / 1e9:.2f} GB are needed: free some "
            "space, or set LITELLAMA_HOME to a folder on a larger disk"
        )


def explain(error: OSError, dst: Path) -> str:
    """What to tell a user whose disk or permissions stopped the making of ``dst``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk that holds {dst.parent} is full, so {dst} was not made (nothing is left "
            "behind): free some space, or set LITELLAMA_HOME to a folder on a larger disk"
        )
    return f"{dst} could not be made: {error}. Check its folder, or set LITELLAMA_HOME to another"
