"""The cache folder, and folders that are whole or not there."""

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from litellama.checkpoints import cache
from litellama.errors import CheckpointError


def test_cache_dir_is_the_variable_or_under_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LITELLAMA_HOME", str(tmp_path / "here"))
    assert cache.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("LITELLAMA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "litellama"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "litellama"


def test_making_publishes_only_the_made_folder(tmp_path: Path):
    dst = tmp_path / "deep" / "model"
    with cache.making(dst) as scratch:
        (scratch / "made" / "file").write_text("whole")
        (scratch / "download").write_text("not wanted")
        assert not dst.exists()
    assert [p.name for p in dst.iterdir()] == ["file"]
    assert list(dst.parent.iterdir()) == [dst]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, CheckpointError])
def test_making_leaves_nothing_when_it_fails(tmp_path: Path, error: type[BaseException]):
    def fail() -> None:
        with cache.making(tmp_path / "model") as scratch:
            (scratch / "made" / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained(tmp_path: Path):
    with (
        pytest.raises(CheckpointError, match=r"full.*LITELLAMA_HOME"),
        cache.making(tmp_path / "model"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match="could not be made"),
        cache.making(tmp_path / "file" / "model"),
    ):
        pass


def test_too_little_space_is_refused_before_the_work(tmp_path: Path):
    with pytest.raises(CheckpointError, match="are needed"):
        cache.require_space(tmp_path / "not" / "yet", 10**18)
    cache.require_space(tmp_path / "not" / "yet", 1)


def test_an_occupied_destination_is_refused_and_kept(tmp_path: Path):
    dst = tmp_path / "model"
    dst.mkdir()
    with cache.making(dst) as scratch:  # empty: taken over
        (scratch / "made" / "first").write_text("")
    with pytest.raises(CheckpointError, match="already exists"), cache.making(dst):
        pass
    assert [p.name for p in dst.iterdir()] == ["first"]


def test_the_second_to_come_waits_and_is_told(tmp_path: Path, home: Path, capfd):
    dst, order = tmp_path / "model", []

    def second() -> None:
        with cache.lock(dst):
            order.append("second")

    with cache.lock(dst):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert f"Waiting for another process to make {dst}" in capfd.readouterr().err


KILLED = """
import sys, time
from pathlib import Path
from litellama.checkpoints import cache
dst = Path(sys.argv[1])
with cache.lock(dst), cache.making(dst) as scratch:
    (scratch / "made" / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_a_scratch_folder_that_the_next_one_removes(
    tmp_path: Path, home: Path
):
    dst = tmp_path / "model"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(dst)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert not dst.exists()
    assert len(list(tmp_path.glob(".model.partial-*"))) == 1
    start = time.monotonic()
    with cache.lock(dst), cache.making(dst) as scratch:
        (scratch / "made" / "whole").write_text("")
    assert time.monotonic() - start < 5, "the lock outlived its holder"
    assert [p.name for p in dst.iterdir()] == ["whole"]
    assert not list(tmp_path.glob(".model.partial-*"))
