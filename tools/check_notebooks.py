#!/usr/bin/env python
"""Refuse notebooks that should not be stored: a guard for CI and for pre-commit.

    python tools/check_notebooks.py                  notebooks/, solutions/ and exercises/
    python tools/check_notebooks.py path.ipynb ...   only these

In notebooks/ and solutions/ every code cell was executed, in order, from the top, with no error, no
stderr and no machine's paths or memory addresses in what it printed; every picture has alternative
text; something is asserted, unless there is no code.  In exercises/ there are no outputs at all.
"""

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
MAX_CELL_BYTES = 300_000
MAX_NOTEBOOK_BYTES = 1_500_000
MACHINE_PATH = re.compile(
    r"(?<![\w.])(/home/\w|/Users/\w|/root\b|/tmp/|/work/|/var/folders/|/mnt/\w|[A-Za-z]:\\Users)"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
ASSERTION = re.compile(r"^\s*(assert\b|check\(|[\w.]*assert_\w+\()", re.MULTILINE)
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


class _Images(HTMLParser):
    """Collects the alternative text of every <img>, and whether each <svg> has a description."""

    def __init__(self) -> None:
        super().__init__()
        self.alts: list[str | None] = []
        self._svg_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.alts.append(given.get("alt"))
        elif tag == "svg":
            if not self._svg_depth:
                self.alts.append(given.get("aria-label"))
            self._svg_depth += 1
        elif tag in ("title", "desc") and self._svg_depth and not self.alts[-1]:
            self.alts[-1] = tag  # its text describes the drawing

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg":
            self._svg_depth -= 1


def problems(notebook: nbformat.NotebookNode, executed: bool) -> Iterator[str]:
    """Everything wrong with a notebook.  ``executed``: it should hold outputs, else none at all."""
    yield from _wrong_metadata(notebook, executed)
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield from _about(cell, _undescribed(cell.source))
        if MACHINE_PATH.search(cell.source):
            yield f"{cell.id}: a machine's path in the source"
        if cell.cell_type != "code":
            continue
        if not executed:
            if cell.outputs or cell.execution_count is not None:
                yield f"{cell.id}: an exercise is stored without outputs"
            continue
        if not cell.source.strip():
            yield f"{cell.id}: an empty code cell"
            continue
        count += 1
        if cell.execution_count is None:
            yield f"{cell.id}: stored without having been executed"
        elif cell.execution_count != count:
            yield f"{cell.id}: executed as [{cell.execution_count}], not in order from the top"
        yield from _about(cell, _bad_outputs(cell))
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    if executed and sources and not any(map(ASSERTION.search, sources)):
        yield "nothing is asserted or checked in this notebook"


def _wrong_metadata(notebook: nbformat.NotebookNode, executed: bool) -> Iterator[str]:
    ids = [cell.get("id", "") for cell in notebook.cells]
    wanted = [f"cell-{number:02d}" for number in range(1, len(ids) + 1)]
    if executed and ids != wanted:
        yield "cell ids are not cell-01, cell-02, ...: run tools/run_notebooks.py"
    if "widgets" in notebook.metadata:
        yield "the state of widgets is stored: run tools/run_notebooks.py"
    if set(notebook.metadata.get("language_info", {})) - {"name"}:
        yield "the version of Python is stored: run tools/run_notebooks.py"
    if any("execution" in cell.metadata for cell in notebook.cells):
        yield "timings are stored: run tools/run_notebooks.py"


def _about(cell: nbformat.NotebookNode, found: Iterator[str]) -> Iterator[str]:
    return (f"{cell.id}: {problem}" for problem in found)


def _bad_outputs(cell: nbformat.NotebookNode) -> Iterator[str]:
    size = len(json.dumps(cell.outputs))
    if size > MAX_CELL_BYTES:
        yield f"its outputs have {size:,} bytes, more than {MAX_CELL_BYTES:,}"
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"stored with an error: {output.ename}: {output.evalue}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"stored with text on stderr: {output.text.strip()[:80]!r}"
        text = _text_of(output)
        if MACHINE_PATH.search(text):
            yield f"a machine's path in an output: {_around(MACHINE_PATH, text)!r}"
        if ADDRESS.search(text):
            yield f"a memory address in an output: {_around(ADDRESS, text)!r}"
        yield from _undescribed_output(output, alt)


def _undescribed_output(output: nbformat.NotebookNode, cell_alt: str) -> Iterator[str]:
    data = output.get("data", {})
    html = _joined(data.get("text/html", ""))
    if html:
        yield from _undescribed(html)
    for kind in data:
        if not kind.startswith("image/"):
            continue
        metadata = output.get("metadata", {})
        described = cell_alt or metadata.get(kind, {}).get("alt") or metadata.get("alt")
        if not described and kind == "image/svg+xml":
            described = not any(_undescribed(_joined(data[kind])))
        if not described and html and not any(_undescribed(html)):
            continue  # the same picture, shown as HTML with its text
        if not described:
            yield f"a picture ({kind}) without alternative text: set mystnb.image.alt on the cell"


def _undescribed(markup: str) -> Iterator[str]:
    """Pictures in markdown or HTML that have no alternative text."""
    markup = FENCE.sub("", markup)
    images = _Images()
    images.feed(markup)
    alts = [*images.alts, *MARKDOWN_IMAGE.findall(markup)]
    for alt in alts:
        if not (alt or "").strip():
            yield "a picture without alternative text"


def _text_of(output: nbformat.NotebookNode) -> str:
    """What an output shows as text; encoded pictures left out."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    kinds = ("text/plain", "text/html", "text/markdown", "image/svg+xml")
    return "\n".join(_joined(output.get("data", {}).get(kind, "")) for kind in kinds)


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else "".join(text)


def _around(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return text[found.start() : found.start() + 60].splitlines()[0] if found else ""


def check_file(path: Path) -> list[str]:
    """The problems of one notebook file."""
    size = path.stat().st_size
    found = []
    if size > MAX_NOTEBOOK_BYTES:
        found.append(f"{size:,} bytes, more than {MAX_NOTEBOOK_BYTES:,}")
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        return [*found, f"not a valid notebook: {str(error).splitlines()[0]}"]
    executed = path.resolve().parent.name != "exercises"
    return found + list(problems(notebook, executed))


def main(arguments: list[str] | None = None) -> int:
    """Check the notebooks; 1 if any is refused."""
    given = [Path(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    rooms = ("notebooks", "solutions", "exercises")
    paths = given or sorted(path for room in rooms for path in (ROOT / room).glob("*.ipynb"))
    refused = 0
    for path in paths:
        found = check_file(path)
        refused += bool(found)
        for problem in found:
            print(f"{path.parent.name}/{path.name}: {problem}")
    print(f"{len(paths)} notebooks checked, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
