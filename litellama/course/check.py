"""``check`` and ``hint``: how the exercises answer.

``check`` runs the learner's function on every case of the exercise and prints a verdict: right, or
which case failed and what the mistake looks like.  The diagnoses are tried from the most certain
to the vaguest (see ``diagnosis``).
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from litellama.course.attempt import (
    attempt,
    cases_with_inputs,
    device,
    is_float,
    largest_error,
)
from litellama.course.diagnosis import Diagnosis, diagnose, dtype_name
from litellama.course.exercise import Exercise
from litellama.course.exercises import find

_hints_given: dict[str, int] = {}


@dataclass(frozen=True)
class Verdict:
    """passed, the name of the diagnosis ("right" if there is none), and the text to print."""

    passed: bool
    name: str
    text: str


def check(name: str, fn: Callable[..., Any]) -> bool:
    """Try ``fn`` on every case of an exercise, print a verdict, return whether it is right.

    ``fn`` takes and returns torch tensors (the launcher, where the exercise is a kernel).  It runs
    on the GPU if there is one, else on the CPU.  A wrong answer never raises; an unknown ``name``
    is an ``ExerciseError``.
    """
    verdict = examine(find(name), fn)
    print(verdict.text)
    return verdict.passed


def hint(name: str) -> None:
    """Print one more hint for an exercise at each call, from a nudge to nearly the answer."""
    exercise = find(name)
    given, total = _hints_given.get(name, 0), len(exercise.hints)
    if given == total:
        print(
            f"There are no more hints for {name}. The answer, with the reasons for it, is in\n"
            f"  solutions/{exercise.lesson}.ipynb"
        )
        return
    _hints_given[name] = given + 1
    print(_wrapped(f"Hint {given + 1} of {total}: {exercise.hints[given]}"))


def examine(exercise: Exercise, fn: Callable[..., Any]) -> Verdict:
    """What ``check`` prints, without printing it."""
    unsuitable = _unsuitable(fn)
    if unsuitable:
        return _failed(exercise, Diagnosis("not a function", unsuitable))
    attempts = []
    for case, inputs in cases_with_inputs(exercise):
        attempts.append(attempt(exercise, fn, case, inputs))
        if attempts[-1].error is not None:
            break
    found = diagnose(exercise, fn, attempts)
    if found is not None:
        return _failed(exercise, found)
    return Verdict(True, "right", _praise(exercise, attempts))


def _unsuitable(fn: Any) -> str | None:
    """Why ``fn`` cannot be called as the exercise's function, or None."""
    if type(fn).__name__ in ("JITFunction", "InterpretedFunction", "Autotuner"):
        return (
            "This is the kernel itself. Pass the launcher: the Python function that takes torch "
            "tensors, makes the output and starts the kernel on a grid."
        )
    if not callable(fn):
        return (
            f"check needs the function itself, and got a {type(fn).__name__}. "
            f"Pass its name without calling it."
        )
    return None


def _failed(exercise: Exercise, found: Diagnosis) -> Verdict:
    said = [*found.where, *found.text.splitlines(), f'For a hint: hint("{exercise.name}")']
    lines = [f"{exercise.name}: not yet.", *(_wrapped(line, "  ") for line in said)]
    return Verdict(False, found.name, "\n".join(lines))


def _wrapped(text: str, indent: str = "") -> str:
    """Text in lines that fit a notebook's column; what wraps is indented once more."""
    return textwrap.fill(
        text, 92, initial_indent=indent, subsequent_indent=indent + "  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _praise(exercise: Exercise, attempts: list[Any]) -> str:
    tested = [made.dtype for made in attempts]
    dtypes = [dtype_name(dtype) for dtype in dict.fromkeys(tested) if dtype is not None]
    text = f"{exercise.name}: right. {len(attempts)} cases"
    if not dtypes or not any(is_float(want) for made in attempts for want in made.want):
        return f"{text}, every answer exact."
    worst = []
    for dtype in dict.fromkeys(tested):
        errors = [
            largest_error(got, want)
            for made in attempts
            if made.dtype == dtype
            for got, want in zip(made.results, made.want, strict=True)
        ]
        worst.append(f"{max(errors):.0e} in {dtype_name(dtype)}")
    where = "on the GPU" if device().type == "cuda" else "on the CPU"
    return f"{text} {where}; largest relative error {', '.join(worst)}."


def reset_hints() -> None:
    """Start every exercise's hints again from the first."""
    _hints_given.clear()
