"""The map of the package: every file of its rooms, and the lesson that teaches it.

What a file is and which lesson teaches it stand in its docstring ("Lesson 03 builds this file"),
and nowhere else: the picture and the tables are made from that.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from litellama.course.drawing import Drawing
from litellama.course.lessons import LESSONS, ROOT, heading, stem

PACKAGE = ROOT / "litellama"
TAUGHT = re.compile(r"\b[Ll]esson\s(\d\d)\b")
# The rooms that are shown file by file, from what a user calls down to what the GPU runs.
ROOMS = {
    "": "the front door",
    "engine": "the engine: who advances, and where keys and values lie",
    "models": "the models: one decoder, and what each family changes",
    "kernels": "the kernels: what runs on the GPU",
}
# The rooms that are shown as one box each.
AROUND = ("cli", "checkpoints", "shapes", "bench", "course")


@dataclass(frozen=True)
class Piece:
    """path: within the repository.  about: its docstring's first line.  lessons: their numbers."""

    path: str
    about: str
    lessons: tuple[int, ...]

    @property
    def name(self) -> str:
        """``softmax`` for a file, ``bench/`` for a folder."""
        path = Path(self.path)
        return path.stem if path.suffix else f"{path.name}/"


def piece(path: Path) -> Piece:
    """What a file's docstring says (for a folder, that of its ``__init__.py``)."""
    source = path / "__init__.py" if path.is_dir() else path
    said = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    numbers = sorted({int(number) for number in TAUGHT.findall(" ".join(said.split()))})
    about = re.sub(r"  Lesson \d\d .*", "", said.splitlines()[0]) if said else ""
    return Piece(path.relative_to(ROOT).as_posix(), about, tuple(numbers))


def room(name: str) -> list[Piece]:
    """The files of a room: those that are taught, in the order of the lessons, then the others."""
    files = (PACKAGE / name).glob("*.py")
    found = [piece(path) for path in files if not path.name.startswith("__")]
    return sorted(found, key=lambda p: (not p.lessons, p.lessons, p.name))


def around() -> list[Piece]:
    """The folders that are no part of the engine."""
    return [piece(PACKAGE / name) for name in AROUND]


def pieces() -> list[Piece]:
    """Everything on the map."""
    return [p for name in ROOMS for p in room(name)] + around()


# --- the picture ---------------------------------------------------------------------------------

COLUMNS, WIDE, HIGH, GAP, LEFT = 5, 158, 44, 10, 24


def draw() -> str:
    """The map as SVG: a panel for each room, the files that a lesson teaches lit."""
    panels = [*((title, room(name)) for name, title in ROOMS.items()), ("around it", around())]
    rows = [-(-len(found) // COLUMNS) for _, found in panels]
    heights = [34 + count * (HIGH + GAP) for count in rows]
    d = Drawing(
        LEFT * 2 + 20 + COLUMNS * WIDE + (COLUMNS - 1) * GAP, 46 + sum(heights) + 4 * 22, alt()
    )
    d.text(LEFT, 26, "lit: a lesson teaches it", 12, "soft", "start")
    y = 38.0
    for (title, found), high in zip(panels, heights, strict=True):
        if y > 38 and title != panels[-1][0]:
            d.arrow((d.width / 2, y - 21), (d.width / 2, y - 1))
        d.box(LEFT, y, d.width - 2 * LEFT, high, style="panel")
        d.text(LEFT + 10, y + 19, title, 12, "soft", "start")
        for i, p in enumerate(found):
            x = LEFT + 10 + i % COLUMNS * (WIDE + GAP)
            style, note = ("lit", _numbers(p)) if p.lessons else ("plain", "")
            d.box(x, y + 28 + i // COLUMNS * (HIGH + GAP), WIDE, HIGH, p.name, style, note, 12.5)
        y += high + 22
    return d.svg()


def _numbers(p: Piece) -> str:
    return "lesson " + " · ".join(f"{number:02d}" for number in p.lessons)


def alt() -> str:
    """The alt text of the picture."""
    taught = ", ".join(f"{p.name} {_numbers(p)[7:]}" for p in pieces() if p.lessons)
    return (
        "Map of the package, a panel for each room, from what a user calls down to the GPU: the "
        "front door, the engine, the models, the kernels, and what is around it. Lit, with the "
        f"lesson that teaches it: {taught}."
    )


# --- the page ------------------------------------------------------------------------------------


def page() -> Iterator[str]:
    """The markdown cells of ``notebooks/package_map.ipynb``."""
    yield (
        "# The map of the package\n\n"
        "Every file of the engine, what it is in its own words, and the lesson that teaches it; "
        "then the lessons, with the files that each leads to. The terms are in the "
        "[glossary](glossary.ipynb). In a terminal, `litellama course` shows which exercises "
        "you have done.\n\n"
        f"![{alt()}](../images/package_map.svg)"
    )
    for name, title in ROOMS.items():
        yield _table(f"{title[0].upper()}{title[1:]}", f"`litellama/{name}`", room(name))
    yield _table("Around it", "`litellama/`", around())
    lines = ["## From lesson to file", "", "| lesson | files |", "|---|---|"]
    for lesson in LESSONS:
        files = [_link(p) for p in pieces() if int(lesson[:2]) in p.lessons]
        lines.append(f"| [{heading(lesson)}]({lesson}.ipynb) | {', '.join(files)} |")
    yield "\n".join(lines)


def _table(title: str, where: str, found: list[Piece]) -> str:
    lines = [f"## {title}", "", f"| {where} | what it is | lesson |", "|---|---|---|"]
    for p in found:
        lessons = ", ".join(f"[{number:02d}]({stem(number)}.ipynb)" for number in p.lessons)
        lines.append(f"| {_link(p)} | {_plain(p.about)} | {lessons} |")
    return "\n".join(lines)


def _link(p: Piece) -> str:
    """A link to a file; to a folder's ``__init__.py``, because JupyterLab opens no folders."""
    target = p.path if p.path.endswith(".py") else f"{p.path}/__init__.py"
    name = p.name if p.name.endswith("/") else f"{p.name}.py"
    return f"[{name}](../{target})"


def _plain(text: str) -> str:
    """Text of a docstring in markdown: code marked as there, and nothing else taken as a mark."""
    parts = text.split("``")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_<|\[\]])", r"\\\1", parts[i])
    return "`".join(parts)
