#!/usr/bin/env python
"""Execute notebooks in place, each in a fresh kernel, and store them the same way every time.

    python tools/run_notebooks.py                    notebooks/ and solutions/
    python tools/run_notebooks.py notebooks/03*      only these
    python tools/run_notebooks.py --no-save exercises/01_first_triton_kernel.ipynb

What is stored: outputs, execution counts, ids ``cell-01``, ``cell-02`` ... in order.  What is not:
timings, the version of Python, the state of widgets (a widget needs a live kernel; its static
picture is an output of its own).  A notebook that raises is not saved, and the exit code is 1.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # the colours of a traceback
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# The kernel of this environment, even where the user has installed another one called python3.
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


def execute(path: Path, timeout: int) -> nbformat.NotebookNode:
    """Run every cell in a fresh kernel, in the notebook's folder, and say which one is running."""
    notebook = nbformat.read(path, as_version=4)
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    count = 0

    def progress(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal count
        if cell.cell_type == "code":
            count += 1
            if sys.stdout.isatty():
                print(f"\r{path.name}: cell {count} of {total}\033[K", end="", flush=True)

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        on_cell_start=progress,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own notices are no part of a lesson
    )
    try:
        client.execute()
    finally:
        if sys.stdout.isatty():
            print("\r\033[K", end="")
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs from run to run; number the cells; join neighbouring printed pieces."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02d}"
        cell.metadata.pop("execution", None)
        cell.metadata.pop("ExecuteTime", None)
        if cell.cell_type == "code":
            cell.outputs = _without_widgets(_joined(cell.outputs))
    nbformat.validate(notebook)
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Printed text arrives in pieces whose borders depend on timing: one piece per stream."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _without_widgets(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A stored widget view has no model behind it and shows an error: keep other formats only."""
    kept = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            del output.data[WIDGET]
            if set(output.data) <= {"text/plain"}:
                continue
        kept.append(output)
    return kept


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook with one stable order of keys."""
    text = nbformat.writes(notebook, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Execute the notebooks; the exit code is the number that raised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--no-save", action="store_true", help="execute only, store nothing")
    parser.add_argument("--timeout", type=int, default=120, help="seconds a cell may take")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(
        [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "solutions").glob("*.ipynb")]
    )
    failures = 0
    for path in paths:
        start = time.perf_counter()
        try:
            notebook = execute(path.resolve(), options.timeout)
        except CellExecutionError as error:
            failures += 1
            print(f"{path}: raised\n{ANSI.sub('', str(error))}")
            continue
        if not options.no_save:
            save(normalise(notebook), path)
        print(f"{path}: {time.perf_counter() - start:.1f} s", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
