"""Where the commands write: answers to stdout, everything else to stderr."""

from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text


def stdout() -> Console:
    """A console on the present ``sys.stdout`` (made on each call, so that tests can replace it)."""
    return Console(highlight=False)


def stderr() -> Console:
    """A console on the present ``sys.stderr``, for notices, progress and errors."""
    return Console(stderr=True, highlight=False)


def notice(message: str) -> None:
    """Write one dim line to stderr."""
    stderr().print(Text(message, style="dim"), soft_wrap=True)


def complain(message: str) -> None:
    """Write one red line to stderr."""
    stderr().print(Text(message, style="red"), soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Write one red line to stderr and leave with exit code 1."""
    complain(f"Error: {message}")
    raise typer.Exit(1)
