"""From a reader's notebook to the code of each answer, and to no other code.

A notebook holds more than answers: experiments, notes, cells that no longer run.  So an answer is
the cell that defines the function that is checked and, in turn, the cells that define the names it
uses.  A name comes from the nearest cell above that defines it, or else from one below.  Nothing
here runs a reader's code.
"""

import ast
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from litellama.errors import ExerciseError

DEFINITION = re.compile(r"^(?:def|class)\s+(\w+)", re.MULTILINE)
MAGIC = re.compile(r"^[ \t]*[%!].*", re.MULTILINE)  # for IPython, not for Python


@dataclass(frozen=True)
class Cell:
    """A code cell: its source, the names it defines and uses at its outermost level, its checks.

    checks: the function handed to ``check``, as source, by the exercise's name.  everything: it has
    a ``from x import *``, so nobody can tell what it defines.
    """

    source: str
    defines: frozenset[str]
    uses: frozenset[str]
    checks: dict[str, str] = field(default_factory=dict)
    everything: bool = False


@dataclass(frozen=True)
class Answer:
    """cells: what to run, in order.  function: an expression, the function that is checked.

    cell: the source of the one that defines it.  checked: the notebook still has a cell that hands
    it to ``check``.
    """

    exercise: str
    cells: tuple[str, ...]
    function: str
    cell: str
    checked: bool


def read_cells(path: Path) -> list[Cell]:
    """The code cells of a notebook; ``ExerciseError`` says why it cannot be read."""
    try:
        import nbformat
    except ImportError as error:
        raise ExerciseError("notebooks are read with nbformat: pip install nbformat") from error
    try:
        # Not validated: a field that is missing or not known does not keep cells from being read.
        notebook = nbformat.convert(nbformat.reader.reads(path.read_text(encoding="utf-8")), 4)
        sources = [str(c.get("source", "")) for c in notebook.cells if c.cell_type == "code"]
    except Exception as error:  # whatever a damaged file makes nbformat raise is the reason
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExerciseError(f"{path.name} cannot be read: {reason:.150}") from error
    return [read_cell(source) for source in sources if source.strip()]


def read_cell(source: str) -> Cell:
    """What a cell defines and uses; where it is no Python, what its ``def`` lines say."""
    for text in (source, MAGIC.sub("", source)):
        try:
            tree, table = ast.parse(text), symtable.symtable(text, "cell", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        own = table.get_symbols()
        return Cell(
            text,
            frozenset(s.get_name() for s in own if s.is_assigned() or s.is_imported()),
            frozenset(_uses(table)),
            dict(_checks(tree)),
            any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(tree)),
        )
    return Cell(text, frozenset(DEFINITION.findall(text)), frozenset())


def _uses(table: symtable.SymbolTable) -> Iterator[str]:
    """The global names that a cell reads, also inside its functions."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _uses(child)


def _checks(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each ``check("name", function)``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.args[0]
        called = getattr(node.func, "id", getattr(node.func, "attr", None))
        given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "fn")]
        if called == "check" and isinstance(name, ast.Constant) and given:
            yield str(name.value), ast.unparse(given[0])


def find_answer(cells: list[Cell], exercise: str) -> Answer | None:
    """The answer to an exercise, or None if no cell defines or checks its function."""
    function, checked = exercise, False
    for at, cell in enumerate(cells):
        if exercise in cell.checks:
            function, checked, place = cell.checks[exercise], True, at
    defined = [at for at, cell in enumerate(cells) if function in cell.defines]
    if defined:
        place = defined[-1]
    elif not checked or function.isidentifier():
        return None
    needed = _needed(cells, place, function)
    sources = tuple(cells[at].source for at in sorted(needed))
    return Answer(exercise, sources, function, cells[place].source, checked)


def _needed(cells: list[Cell], place: int, function: str) -> set[int]:
    """The cells that the function in the cell ``place`` stands on, and that cell itself."""
    needed = {at for at, cell in enumerate(cells) if cell.everything}
    if function in cells[place].defines:
        waiting = [place]
    else:  # an expression in the cell that checks it, which itself is not run
        names = read_cell(function).uses
        waiting = [at for name in names if (at := _definer(cells, name, place)) is not None]
    while waiting:
        at = waiting.pop()
        if at in needed:
            continue
        needed.add(at)
        found = (_definer(cells, name, at) for name in cells[at].uses)
        waiting += [other for other in found if other is not None]
    return needed


def _definer(cells: list[Cell], name: str, place: int) -> int | None:
    """The nearest cell that defines a name: from ``place`` upwards, else the first one below."""
    around = [*range(place, -1, -1), *range(place + 1, len(cells))]
    return next((at for at in around if name in cells[at].defines), None)
