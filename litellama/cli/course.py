"""``litellama course``: which exercises pass, from the reader's own notebooks."""

import json
from pathlib import Path
from typing import Annotated

import typer

from litellama.cli.console import notice, stdout


def course(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where the exercise notebooks are; exercises/ if it is not given."),
    ] = None,
    lesson: Annotated[
        str | None, typer.Option(help="One lesson, as 03, with what check says of each answer.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="The longest that one answer may run.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Show which exercises pass: it runs your saved answers, here, and sends nothing anywhere.

    Answers that are still stubs are not run. The exit code is 0 if every exercise that was asked
    for is done, and 1 if not.
    """
    from litellama.course import overview

    place = folder or overview.exercises_folder()
    notice(f"Reading {place}, as last saved.")
    found = list(overview.examine_folder(place, overview.number(lesson), seconds, notice))
    if as_json:
        print(json.dumps(overview.as_json(found), indent=1, ensure_ascii=False))
    else:
        stdout().print(overview.table(found, detailed=lesson is not None))
    done, total = overview.totals(found)
    raise typer.Exit(0 if done == total else 1)
