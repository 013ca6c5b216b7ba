"""The shell: ``litellama chat | generate | bench | pull | convert | doctor | course``.

One file per command.  A command imports torch, transformers and the engine when it runs, never at
the top of its file, so that ``--help`` and a mistyped option answer at once.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from litellama.cli import bench, chat, convert, course, doctor, generate, pull
from litellama.cli.console import fail
from litellama.errors import EngineError


class _Commands(TyperGroup):
    """Turns an error that the user caused into one red line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, EngineError) as error:  # every error of litellama/errors.py, see there
            fail(str(error))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A fast LLM inference engine that is also a textbook.",
)
app.command()(chat.chat)
app.command()(generate.generate)
app.add_typer(bench.app, name="bench")
app.command()(pull.pull)
app.command()(convert.convert)
app.command()(doctor.doctor)
app.command()(course.course)


@app.callback()
def _main() -> None:
    """A fast LLM inference engine that is also a textbook."""
