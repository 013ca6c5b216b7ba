"""Progress on stderr: a bar on a terminal, two plain lines elsewhere, nothing for short work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG_WORK = 64 * 2**20
"""Bytes to write; fewer are done in well under a second and are not worth a line."""


@contextmanager
def progress(
    description: str, total: int, long_work: int = LONG_WORK
) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``, to be called as ``n`` more of ``total`` bytes are done."""
    if total < long_work:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        with plain(f"{description} ({total / 1e6:.0f} MB)"):
            yield lambda count: None


@contextmanager
def plain(description: str) -> Iterator[None]:
    """Write a line when work begins and another with the seconds it took."""
    start = time.perf_counter()
    print(f"{description} ...", file=sys.stderr, flush=True)
    yield
    print(f"{description}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.update(task, advance=count)
