#!/usr/bin/env python
"""Make the exercise notebooks from the solution notebooks: ``solutions/X`` gives ``exercises/X``.

What becomes of a cell is said in ``litellama/course/stubs.py``.  The same solutions give the same
bytes.  A notebook that a reader has written in is left alone, and named.

    python tools/make_exercises.py                     write exercises/
    python tools/make_exercises.py exercises/03*       only these
    python tools/make_exercises.py --force [...]       new ones also in place of those written in,
                                                       which are kept in exercises/mine/
    python tools/make_exercises.py --check             fail if exercises/ is not what it would write
"""

import argparse
import itertools
import sys
from pathlib import Path

import nbformat

from litellama.course.stubs import digest, is_as_made, make_exercise

ROOT = Path(__file__).resolve().parents[1]
KEPT = "mine"  # a folder in exercises/: nothing makes, guards or publishes what is in it


def main(arguments: list[str] | None = None) -> int:
    """Write, or compare, the exercise notebooks; 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", type=Path, help="exercise notebooks; all if none")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument(
        "--force", action="store_true", help="replace also those that a reader has written in"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    exercises = options.root / "exercises"
    exercises.mkdir(exist_ok=True)
    made = {
        exercises / path.name: make_exercise(
            nbformat.read(path, as_version=4), f"solutions/{path.name}"
        )
        for path in sorted((options.root / "solutions").glob("*.ipynb"))
    }
    stray = sorted(set(exercises.glob("*.ipynb")) - set(made))
    for path in stray:
        print(f"exercises/{path.name}: there is no solutions/{path.name} to make it from")
    if options.names:
        wanted = {path.name for path in options.names}
        unknown = sorted(wanted - {path.name for path in made})
        if unknown:
            parser.error(f"there is no solutions/{unknown[0]} to make that from")
        made = {path: notebook for path, notebook in made.items() if path.name in wanted}
    drifted = [
        path
        for path, notebook in made.items()
        if not path.exists() or path.read_bytes() != text_of(notebook).encode()
    ]
    if options.check:
        return check(drifted, stray, len(made))
    written = sum(write(path, made[path], options.force) for path in drifted)
    print(f"{len(made)} exercise notebooks, {written} changed")
    return 1 if stray else 0


def check(drifted: list[Path], stray: list[Path], count: int) -> int:
    """Say what is not as it would be made; the exit code."""
    for path in drifted:
        print(f"exercises/{path.name}: not what solutions/{path.name} gives")
    if stray or drifted:
        print("Edit the solutions, then run: python tools/make_exercises.py")
        return 1
    print(f"exercises/ is what solutions/ gives ({count} notebooks)")
    return 0


def write(path: Path, notebook: nbformat.NotebookNode, force: bool) -> bool:
    """Write a notebook unless a reader's work is there; with ``force``, copy that away first."""
    name = f"exercises/{path.name}"
    if path.exists() and not _replaceable(path, notebook):
        if not force:
            print(
                f"{name} has a reader's work in it and was left alone.\n"
                f"  For a new one: .venv/bin/python tools/make_exercises.py --force {name}\n"
                f"  (yours is then kept in exercises/{KEPT}/)"
            )
            return False
        print(f"kept what was in {name} as exercises/{KEPT}/{_keep(path).name}")
    # By way of a second file: an interruption leaves the old notebook or the new one.
    draft = path.with_suffix(".new")
    draft.write_bytes(text_of(notebook).encode())
    draft.replace(path)
    print(f"wrote {name}")
    return True


def _replaceable(path: Path, notebook: nbformat.NotebookNode) -> bool:
    """Whether nothing of a reader's is lost with a file: its cells are as they were made, or will
    be again.  A file that cannot be read may well be somebody's."""
    try:
        found = nbformat.read(path, as_version=4)
        return is_as_made(found) or digest(found) == digest(notebook)
    except Exception:  # whatever a damaged file makes nbformat raise
        return False


def _keep(path: Path) -> Path:
    """Copy a file into the folder of what was kept, under a name that nothing has there."""
    folder = path.parent / KEPT
    folder.mkdir(exist_ok=True)
    for number in itertools.count(1):
        copy = folder / (path.name if number == 1 else f"{path.stem}_{number}{path.suffix}")
        try:
            with copy.open("xb") as file:
                file.write(path.read_bytes())
        except FileExistsError:
            continue
        break
    return copy


def text_of(notebook: nbformat.NotebookNode) -> str:
    """A notebook's file, with one stable order of keys."""
    return nbformat.writes(notebook, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main())
