#!/usr/bin/env python
"""Make the exercise notebooks from the solution notebooks: ``solutions/X`` gives ``exercises/X``.

The markers are nbgrader's.  In a code cell the lines from ``### BEGIN SOLUTION`` to
``### END SOLUTION`` become a stub that runs (``pass  # YOUR CODE HERE``); a cell of any type with
the tag ``solution`` is left out.  ``assert check(...)``, which proves the solution, becomes
``check(...);``, so that an unsolved exercise does not raise.  Outputs are cleared.  The same
solutions give the same bytes.

    python tools/make_exercises.py            write exercises/
    python tools/make_exercises.py --check    fail if exercises/ is not what it would write
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
STUB = "pass  # YOUR CODE HERE"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def stub(source: str, where: str) -> str:
    """A code cell without its solution: each marked region becomes one stub line."""
    kept: list[str] = []
    inside = False
    for line in source.splitlines():
        if line.strip() == BEGIN:
            if inside:
                raise ValueError(f"{where}: {BEGIN} twice without {END}")
            inside = True
            kept.append(line[: len(line) - len(line.lstrip())] + STUB)
        elif line.strip() == END:
            if not inside:
                raise ValueError(f"{where}: {END} without {BEGIN}")
            inside = False
        elif not inside:
            kept.append(re.sub(r"^assert (check\(.*\))$", r"\1;", line))
    if inside:
        raise ValueError(f"{where}: {BEGIN} without {END}")
    return "\n".join(kept)


def make_exercise(solution: nbformat.NotebookNode, where: str = "notebook") -> str:
    """The exercise notebook, as text, for a solution notebook."""
    cells = []
    for cell in solution.cells:
        if "solution" in cell.metadata.get("tags", []):
            continue
        where_cell = f"{where}, {cell.id}"
        metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "markdown":
            made = nbformat.v4.new_markdown_cell(cell.source, metadata=metadata)
            if BEGIN in cell.source or END in cell.source:
                raise ValueError(f"{where_cell}: give a solution in prose the tag 'solution'")
        else:
            made = nbformat.v4.new_code_cell(stub(cell.source, where_cell), metadata=metadata)
        made.id = cell.id
        cells.append(made)
    exercise = nbformat.v4.new_notebook(cells=cells, metadata=solution.metadata)
    nbformat.validate(exercise)
    return nbformat.writes(exercise, indent=1, sort_keys=True) + "\n"


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
        wanted[exercises / path.name] = make_exercise(notebook, f"solutions/{path.name}")
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
