"""What proves an exercise, and the means to run a notebook's own cells as a module."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat

from litellama.course.judge import run_cells

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: the solution with a slip in it, as a learner might write it.

    edits: (right, wrong) pieces of the solution's source; each must occur exactly once, so that an
    edit that no longer applies fails the test.  diagnosis: the name of the one that must come out.
    """

    label: str
    diagnosis: str
    edits: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Proof:
    """wrong: at least three, with three different diagnoses.  right: at least one other answer."""

    wrong: tuple[Wrong, ...]
    right: tuple[Callable[..., Any], ...]

    def missing(self) -> str | None:
        """What this proof lacks, or None."""
        if len({wrong.diagnosis for wrong in self.wrong}) < 3:
            return "fewer than three wrong answers with diagnoses of their own"
        if not self.right:
            return "no right answer written differently"
        return None


def unproved(exercises: dict[str, Any], proofs: dict[str, Proof]) -> list[str]:
    """The exercises whose proof is missing or incomplete, each with what is missing."""
    problems = [f"{name}: no proof" for name in exercises if name not in proofs]
    problems += [f"{name}: there is no such exercise" for name in proofs if name not in exercises]
    for name, proof in proofs.items():
        lack = proof.missing()
        if lack:
            problems.append(f"{name}: {lack}")
    return problems


def wrong(label: str, diagnosis: str, *edits: tuple[str, str]) -> Wrong:
    return Wrong(label, diagnosis, edits)


def code_cells(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def solution_cells(path: Path, name: str) -> tuple[list[str], str]:
    """The import cells of a notebook, and the cell that defines the function ``name``."""
    cells = code_cells(path)
    imports = [source for source in cells[:2] if "import" in source]
    (answer,) = (source for source in cells if f"\ndef {name}(" in f"\n{source}")
    return imports, answer


def edited(source: str, edits: tuple[tuple[str, str], ...]) -> str:
    for right, slip in edits:
        assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times"
        source = source.replace(right, slip)
    return source


def as_module(cells: list[str], folder: Path) -> ModuleType:
    """Run code cells in order, as a reader's answers are run."""
    return run_cells(cells, folder, f"cells_{next(_numbers)}")
