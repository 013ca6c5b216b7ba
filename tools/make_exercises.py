#!/usr/bin/env python
"""Make the exercise notebooks from the solution notebooks: ``solutions/X`` gives ``exercises/X``.

What becomes of a cell is said in ``litellama/course/stubs.py``.  The same solutions give the same
bytes.

    python tools/make_exercises.py            write exercises/
    python tools/make_exercises.py --check    fail if exercises/ is not what it would write
"""

import argparse
import sys
from pathlib import Path

import nbformat

from litellama.course.stubs import make_exercise

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Write, or compare, every exercise notebook; 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    solutions = sorted((options.root / "solutions").glob("*.ipynb"))
    exercises = options.root / "exercises"
    exercises.mkdir(exist_ok=True)
    wanted = {}
    for path in solutions:
        notebook = nbformat.read(path, as_version=4)
        exercise = make_exercise(notebook, f"solutions/{path.name}")
        text = nbformat.writes(exercise, indent=1, sort_keys=True) + "\n"
        wanted[exercises / path.name] = text
    stray = sorted(set(exercises.glob("*.ipynb")) - set(wanted))
    drifted = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stray:
        print(f"exercises/{path.name}: there is no solutions/{path.name} to make it from")
    if options.check:
        for path in drifted:
            print(f"exercises/{path.name}: not what solutions/{path.name} gives")
        if stray or drifted:
            print("Edit the solutions, then run: python tools/make_exercises.py")
            return 1
        print(f"exercises/ is what solutions/ gives ({len(wanted)} notebooks)")
        return 0
    for path in drifted:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote exercises/{path.name}")
    print(f"{len(wanted)} exercise notebooks, {len(drifted)} changed")
    return 1 if stray else 0


if __name__ == "__main__":
    sys.exit(main())
