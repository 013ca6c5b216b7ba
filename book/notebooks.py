"""Lessons and exercises: from notebooks of the repository to notebooks that Sphinx reads."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from html import escape

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book.links import BookError, Site
from litellama.course.exercises import find
from litellama.course.stubs import BEGIN, END, stub

CONTROL = re.compile(r"^\s*explore\(|(?<=[\s(])(\w+)=(?:Slider|Choice)\(", re.MULTILINE)
CHECK = re.compile(r"^(?:assert )?check\(\"(\w+)\"", re.MULTILINE)


def lesson(site: Site, source: str, exercises: str | None) -> NotebookNode:
    """The page of a notebook in ``notebooks/``.

    source: its path in the repository.  exercises: the path of its exercises' page, if it has any.
    """
    cells: list[NotebookNode] = []
    for cell in _read(site, source).cells:
        if cell.cell_type == "markdown":
            cells.append(_markdown(site, cell.source, source, site.pages[source]))
        else:
            cells.append(cell)
            cells.extend(_about_controls(cell))
    further = [f"[Exercises](../{exercises})"] if exercises else []
    cells.insert(1, _beside([_download("Download this notebook", source), *further]))
    return _notebook(cells)


def exercise_page(site: Site, source: str, lesson: str | None) -> NotebookNode:
    """The page of a notebook in ``solutions/``: statements, stubs, and hints and solutions folded.

    source: its path in the repository.  lesson: the path of its lesson's page, if it is written.
    """
    page = site.pages[source]
    cells = []
    for section in _sections(_read(site, source).cells):
        cells.extend(_exercise(site, section, source, page))
    exercise = source.replace("solutions/", "exercises/")
    links = [_download("Download the exercises", exercise), _download("the solutions", source)]
    if lesson:
        links.append(f"[The lesson](../{lesson})")
    cells.insert(1, _beside(links))
    return _notebook(cells)


def alternative_texts(notebook: NotebookNode) -> dict[str, str]:
    """The alternative text of each picture among the outputs, by the SHA-256 of its bytes.

    MyST-NB names the files of pictures so; it knows one text for a cell, and a cell may have two.
    """
    texts = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, content in output.get("data", {}).items():
                if kind in ("image/png", "image/jpeg"):
                    digest = hashlib.sha256(base64.b64decode(content)).hexdigest()
                    texts[digest] = output.metadata.get(kind, {}).get("alt", "")
    return texts


# --- the parts of a page -------------------------------------------------------------------------


def _read(site: Site, source: str) -> NotebookNode:
    return nbformat.read(site.root / source, as_version=4)


def _notebook(cells: list[NotebookNode]) -> NotebookNode:
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for number, cell in enumerate(cells):
        cell.id = f"page-{number}"
    return new_notebook(cells=cells, metadata=metadata)


def _markdown(site: Site, text: str, source: str, page: str) -> NotebookNode:
    return new_markdown_cell(site.rewrite(text, source, page))


def _download(text: str, path: str) -> str:
    return f"{{download}}`{text} </files/{path}>`"


def _beside(links: list[str]) -> NotebookNode:
    return new_markdown_cell("```{container} beside\n" + " · ".join(links) + "\n```")


def _about_controls(cell: NotebookNode) -> Iterator[NotebookNode]:
    """Below the picture of a widget, what the notebook has in its place."""
    found = list(CONTROL.finditer(cell.source))
    names = [f"`{match[1]}`" for match in found if match[1]]
    if names and len(names) < len(found):  # `explore(` itself, and its controls
        text = f"A still picture. In the notebook it moves with {_and(names)}."
        yield new_markdown_cell(f"```{{container}} still\n{text}\n```")


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


# --- exercises -----------------------------------------------------------------------------------


def _sections(cells: Iterable[NotebookNode]) -> list[list[NotebookNode]]:
    """The cells of a solution notebook, a list for each heading."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("#") and sections[-1]:
            sections.append([])
        sections[-1].append(cell)
    return sections


def _exercise(
    site: Site, section: list[NotebookNode], source: str, page: str
) -> Iterator[NotebookNode]:
    """One exercise: the statement and the stubs; then, folded, the hints and the solution."""
    names = [name for cell in section for name in CHECK.findall(cell.source)]
    answer: list[NotebookNode] = []
    for cell in section:
        if "solution" in cell.metadata.get("tags", []):
            if names:
                answer.append(_solution_cell(site, cell, source, page))
        elif cell.cell_type == "markdown":
            yield _markdown(site, cell.source, source, page)
        else:
            yield new_code_cell(stub(cell.source, f"{source}, {cell.id}"))
            if BEGIN in cell.source or CHECK.search(cell.source):
                answer.append(_solution_cell(site, cell, source, page))
    for name in names:
        yield _hints(name)
    if answer:
        yield new_markdown_cell('<details class="fold"><summary>Solution</summary>')
        yield from answer
        yield new_markdown_cell("</details>")


def _solution_cell(site: Site, cell: NotebookNode, source: str, page: str) -> NotebookNode:
    if cell.cell_type == "markdown":
        if re.search(r"^#", cell.source, re.MULTILINE):
            raise BookError(
                f"{source}, {cell.id}: a heading within a solution would end its fold on the "
                "site; write it in bold"
            )
        return _markdown(site, cell.source, source, page)
    kept = [line for line in cell.source.splitlines() if line.strip() not in (BEGIN, END)]
    text = "".join(o.text for o in cell.outputs if o.output_type == "stream")
    outputs = [new_output("stream", name="stdout", text=text)] if text else []
    return new_code_cell("\n".join(kept), outputs=outputs)


def _hints(name: str) -> NotebookNode:
    """The hints of one exercise, one fold in the other, so that no two are seen at once."""
    hints = find(name).hints
    lines = []
    for number, hint in enumerate(hints, 1):
        title = f"Hint {number} of {len(hints)}"
        # Hints are plain text, so it is HTML from here on: no line of it may be empty.
        lines.append(f'<details class="fold"><summary>{title}</summary><p>{escape(hint)}</p>')
    return new_markdown_cell("\n".join(lines) + "</details>" * len(hints))
