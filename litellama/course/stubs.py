"""From a solution notebook to the exercise notebook that a reader is given.

The markers are nbgrader's.  In a code cell the lines from ``### BEGIN SOLUTION`` to
``### END SOLUTION`` become a stub that runs (``pass  # YOUR CODE HERE``); a cell of any type with
the tag ``solution`` is left out.  ``assert check(...)``, which proves the solution, becomes
``check(...);``, so that an unsolved exercise does not raise.

The exercise notebook carries a digest of its sources in its metadata, so that later it can be told
whether a reader has written in it.
"""

import hashlib
import json
import re

import nbformat

STUB = "pass  # YOUR CODE HERE"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
AS_MADE = "litellama_sources_as_made"  # in the metadata of an exercise notebook: a digest


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


def make_exercise(
    solution: nbformat.NotebookNode, where: str = "notebook"
) -> nbformat.NotebookNode:
    """The exercise notebook for a solution notebook: stubs for answers, and no outputs."""
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
    exercise = nbformat.v4.new_notebook(cells=cells, metadata=dict(solution.metadata))
    exercise.metadata[AS_MADE] = digest(exercise)
    nbformat.validate(exercise)
    return exercise


def digest(notebook: nbformat.NotebookNode) -> str:
    """A fingerprint of what the cells say; outputs, ids and execution counts are no part of it."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def is_as_made(notebook: nbformat.NotebookNode) -> bool:
    """Whether nobody has written in an exercise notebook since it was made."""
    return bool(notebook.metadata.get(AS_MADE) == digest(notebook))
