"""How far a reader has come: which exercises pass, from the reader's own notebooks.

Nothing is sent anywhere, and nothing is stored.  An answer that is still the stub it was given as
is not run; the others are, by ``judge``, in a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from litellama.course.answers import Answer, Cell, find_answer, read_cell, read_cells
from litellama.course.drawing import PALETTE
from litellama.course.exercise import Exercise
from litellama.course.exercises import all_exercises
from litellama.course.judge import Judgement, judge
from litellama.course.lessons import LESSONS, ROOT, heading, stem
from litellama.errors import ExerciseError

DONE, TRIED, UNTOUCHED, MISSING = "done", "tried", "untouched", "missing"
STYLES = {
    DONE: PALETTE["green"],
    TRIED: PALETTE["vermilion"],
    UNTOUCHED: "dim",
    MISSING: f"bold {PALETTE['vermilion']}",
}


@dataclass
class Entry:
    """One exercise.  status: done, tried, untouched, or missing (no cell defines its function).

    verdict: the name of the diagnosis, where it was run; text: what ``check`` says.
    """

    exercise: Exercise
    status: str
    verdict: str = ""
    text: str = ""


@dataclass
class LessonProgress:
    """The exercises of a lesson, and what is to be known about its notebook, a line each."""

    lesson: str
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many exercises have this status."""
        return sum(entry.status == status for entry in self.entries)

    def next(self) -> Entry | None:
        """What to do next: what was begun, else the first that was not; None when all is done."""
        for status in (TRIED, UNTOUCHED, MISSING):
            for entry in self.entries:
                if entry.status == status:
                    return entry
        return None


def progress(lesson: int | str | None = None, folder: str | Path | None = None) -> None:
    """Show which exercises pass, from what was last saved in ``exercises/``; for a notebook cell.

    It runs the answers that are more than stubs, and says so before.  lesson: a number, for one
    lesson with what ``check`` says about each answer.  folder: where the notebooks are.  What
    cannot be done is an ``ExerciseError``.
    """
    place = Path(folder) if folder else exercises_folder()
    found = list(examine_folder(place, number(lesson), say=print))
    Console(highlight=False).print(table(found, detailed=lesson is not None))


def number(lesson: int | str | None) -> int | None:
    """The number of a lesson that has exercises; ``ExerciseError`` if it has none."""
    if lesson is None:
        return None
    known = sorted({int(exercise.lesson[:2]) for exercise in all_exercises().values()})
    if str(lesson).isdecimal() and int(lesson) in known:
        return int(lesson)
    numbers = ", ".join(f"{n:02d}" for n in known)
    raise ExerciseError(f"there are no exercises of lesson {lesson!r}: there are {numbers}")


def exercises_folder() -> Path:
    """The folder ``exercises`` here, or of the course; ``ExerciseError`` if there is none."""
    here = Path.cwd()
    for place in (here if here.name == "exercises" else here / "exercises", ROOT / "exercises"):
        if any((place / f"{name}.ipynb").is_file() for name in LESSONS):
            return place
    raise ExerciseError(f"there are no exercise notebooks in {here / 'exercises'}: name the folder")


def examine_folder(
    folder: Path,
    lesson: int | None = None,
    seconds: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[LessonProgress]:
    """Each lesson's progress, in order; ``say`` gets a line before anything is run."""
    if not folder.is_dir():
        raise ExerciseError(f"there is no folder {folder}")
    exercises = all_exercises().values()
    chosen = [stem(lesson)] if lesson is not None else sorted({e.lesson for e in exercises})
    strays, notes = _other_notebooks(folder)
    for name in chosen:
        mine = [exercise for exercise in exercises if exercise.lesson == name]
        cells, about = _cells(folder, name, mine, strays)
        made = LessonProgress(name, [Entry(exercise, MISSING) for exercise in mine], about)
        if name == chosen[0]:
            made.notes += notes
        if cells is not None:
            _examine(made, cells, folder, seconds, say)
        yield made


def _examine(
    made: LessonProgress, cells: list[Cell], folder: Path, seconds: float, say: Callable
) -> None:
    """Settle the status of each entry, and note what is odd about the notebook."""
    entries = {entry.exercise.name: entry for entry in made.entries}
    stubs, to_run = _stubs(folder, made.lesson), []
    for name, entry in entries.items():
        answer = find_answer(cells, name)
        if answer is None:
            made.notes.append(f"{name}: no cell defines it, so it could not be looked at")
            continue
        if not answer.checked:
            made.notes.append(f"{name}: the cell that checks it is gone; looked at all the same")
        entry.status = UNTOUCHED if _is_stub(answer, stubs) else TRIED
        to_run += [answer] if entry.status == TRIED else []
    if to_run:
        names = ", ".join(answer.exercise for answer in to_run)
        say(f"Running your answers of lesson {made.lesson[:2]} in a process of its own: {names}")
    for answer, judgement in judge(to_run, folder, seconds):
        _settle(entries[answer.exercise], judgement)


def _settle(entry: Entry, judgement: Judgement) -> None:
    entry.status = DONE if judgement.passed else TRIED
    entry.verdict, entry.text = judgement.name, judgement.text


def _cells(
    folder: Path, name: str, exercises: list[Exercise], strays: dict[Path, list[Cell]]
) -> tuple[list[Cell] | None, list[str]]:
    """A lesson's cells, from its notebook or from one with another name; and what to say of it."""
    path = folder / f"{name}.ipynb"
    holding = {
        stray: count
        for stray, cells in strays.items()
        if (count := sum(find_answer(cells, e.name) is not None for e in exercises))
    }
    if path.exists():
        notes = [f"{stray.name}: not read, because {path.name} is there" for stray in holding]
        try:
            return read_cells(path), notes
        except ExerciseError as error:
            return None, [str(error), *notes]
    if not holding:
        return None, [f"{path.name} is not in {folder}: git restore brings it back"]
    best = max(holding, key=lambda stray: holding[stray])
    return strays[best], [f"{path.name} is not there; read {best.name}, which has its exercises"]


def _other_notebooks(folder: Path) -> tuple[dict[Path, list[Cell]], list[str]]:
    """The notebooks that are named as no lesson is: copies, renamed ones; and those unreadable."""
    readable, notes = {}, []
    for path in sorted(folder.glob("*.ipynb")):
        if path.stem not in LESSONS:
            try:
                readable[path] = read_cells(path)
            except ExerciseError as error:
                notes.append(str(error))
    return readable, notes


def _stubs(folder: Path, name: str) -> list[Cell] | None:
    """The cells of the exercise notebook as it was given, made again from the solution."""
    import nbformat

    from litellama.course.stubs import make_exercise

    for place in (folder.parent, ROOT):
        path = place / "solutions" / f"{name}.ipynb"
        if path.is_file():
            given = make_exercise(nbformat.read(path, as_version=4), path.name)
            return [read_cell(cell.source) for cell in given.cells if cell.cell_type == "code"]
    return None


def _is_stub(answer: Answer, stubs: list[Cell] | None) -> bool:
    """Whether the answer's cell is the one that was given; without a solution, by its mark."""
    from litellama.course.stubs import STUB

    given = find_answer(stubs, answer.exercise) if stubs else None
    if given is None:
        return STUB in answer.cell
    return _bare(answer.cell) == _bare(given.cell)


def _bare(source: str) -> list[str]:
    """A cell's lines without the spaces at their ends, and without empty ones."""
    return [line.rstrip() for line in source.splitlines() if line.strip()]


# --- shown ---------------------------------------------------------------------------------------


def as_json(found: Sequence[LessonProgress]) -> dict[str, Any]:
    """Everything, for a program: a list of lessons, each with its exercises and notes."""
    lessons = [
        {
            "lesson": made.lesson,
            "notes": made.notes,
            "exercises": [
                {
                    "name": entry.exercise.name,
                    "status": entry.status,
                    "difficulty": entry.exercise.difficulty,
                    "minutes": entry.exercise.minutes,
                    "verdict": entry.verdict,
                    "text": entry.text,
                }
                for entry in made.entries
            ],
        }
        for made in found
    ]
    done, total = totals(found)
    return {"done": done, "total": total, "lessons": lessons}


def totals(found: Sequence[LessonProgress]) -> tuple[int, int]:
    """How many exercises are done, of how many."""
    return sum(made.count(DONE) for made in found), sum(len(made.entries) for made in found)


def table(found: Sequence[LessonProgress], detailed: bool = False) -> RenderableType:
    """A row for each lesson, or (detailed) for each exercise with what ``check`` says of it."""
    rows = _exercises_table(found) if detailed else _lessons_table(found)
    notes = [Text(f"  {note}", style=STYLES[TRIED]) for made in found for note in made.notes]
    done, total = totals(found)
    left = [e.exercise.minutes for made in found for e in made.entries if e.status != DONE]
    ending = f"{done} of {total} exercises done."
    if left:
        ending += f" About {_duration(sum(left))} of exercises to go."
    return Group(rows, *_said(found, detailed), *notes, Text(ending, style="bold"))


def _lessons_table(found: Sequence[LessonProgress]) -> Table:
    made_table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made_table.add_column("lesson", no_wrap=True, max_width=24)
    for status in (DONE, TRIED, UNTOUCHED):
        made_table.add_column(status, justify="right", no_wrap=True)
    made_table.add_column("next", no_wrap=True)
    made_table.add_column("level", no_wrap=True)
    for made in found:
        done, tried = made.count(DONE), made.count(TRIED)
        following = made.next()
        made_table.add_row(
            heading(made.lesson),
            Text(str(done), style=STYLES[DONE] if done else "dim"),
            Text(str(tried), style=STYLES[TRIED] if tried else "dim"),
            Text(str(len(made.entries) - done - tried), style="dim"),
            following.exercise.name if following else Text("all done", style=STYLES[DONE]),
            _level(following.exercise) if following else "",
        )
    return made_table


def _exercises_table(found: Sequence[LessonProgress]) -> Table:
    made_table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("exercise", "", "level", "what it is"):
        made_table.add_column(name, no_wrap=name != "what it is")
    for made in found:
        for entry in made.entries:
            status = Text(entry.status, style=STYLES[entry.status])
            exercise = entry.exercise
            made_table.add_row(exercise.name, status, _level(exercise), exercise.title)
    return made_table


def _said(found: Sequence[LessonProgress], detailed: bool) -> Iterator[Text]:
    """What ``check`` says about answers that are not right yet: all of it, or which mistake."""
    for made in found:
        for entry in made.entries:
            if entry.status != TRIED:
                continue
            if detailed:
                yield Text(entry.text + "\n")
            else:
                yield Text(f"  {made.lesson[:2]} {entry.exercise.name}, not yet: {entry.verdict}")


def _level(exercise: Exercise) -> str:
    """Difficulty and minutes."""
    return f"{exercise.difficulty}/5 {exercise.minutes:2} min"


def _duration(minutes: int) -> str:
    return f"{minutes} minutes" if minutes < 90 else f"{minutes / 60:.0f} hours"
