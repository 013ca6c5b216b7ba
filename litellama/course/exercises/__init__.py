"""The exercises, one file per lesson, each with an ``EXERCISES`` tuple."""

import difflib
import functools
import importlib
import pkgutil

from litellama.course.exercise import Exercise
from litellama.errors import ExerciseError


@functools.cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise by its name, in the order of the lessons."""
    found: dict[str, Exercise] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for exercise in importlib.import_module(f"{__name__}.{module}").EXERCISES:
            if exercise.name in found:
                raise ValueError(f"two exercises are called {exercise.name!r}; rename one")
            found[exercise.name] = exercise
    return found


def find(name: str) -> Exercise:
    """The exercise called ``name``; ``ExerciseError`` names close ones if there is none."""
    exercises = all_exercises()
    if name in exercises:
        return exercises[name]
    close = difflib.get_close_matches(str(name), exercises, n=3, cutoff=0.5)
    if close:
        advice = "did you mean " + " or ".join(repr(other) for other in close) + "?"
    else:
        advice = "the exercises are " + ", ".join(exercises)
    raise ExerciseError(f"there is no exercise called {name!r}: {advice}")
