"""Every exercise is proved: its solution, its stub, wrong answers, other right answers.

A new exercise needs a ``Proof`` in the ``proofs_lesson_NN.py`` of its lesson, or this fails.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for proof.py and the proofs

from proof import ROOT, Proof, Wrong, as_module, code_cells, edited, solution_cells, unproved

import litellama.course
from litellama.course.check import Verdict, examine
from litellama.course.exercise import Exercise
from litellama.course.exercises import all_exercises, find
from litellama.kernels.backend import interpreting

EXERCISES = all_exercises()
PROOFS: dict[str, Proof] = {}
for _path in sorted(Path(__file__).parent.glob("proofs_lesson_*.py")):
    PROOFS |= importlib.import_module(_path.stem).PROOFS
LESSONS = sorted({exercise.lesson for exercise in EXERCISES.values()})
HALF = ("accumulated in half precision", "half precision", "overflow in half precision")
WRONG = [(name, slip) for name, proof in PROOFS.items() for slip in proof.wrong]
RIGHT = [(name, fn) for name, proof in PROOFS.items() for fn in proof.right]


def run_notebook(path: Path, folder: Path, monkeypatch) -> dict[str, Verdict]:
    """Run a notebook's cells; the verdict on every function that they check."""
    verdicts: dict[str, Verdict] = {}

    def record(name: str, fn) -> bool:
        verdicts[name] = examine(find(name), fn)
        return verdicts[name].passed

    monkeypatch.setattr(litellama.course, "check", record)
    as_module(code_cells(path), folder)
    return verdicts


def test_every_exercise_is_proved():
    assert unproved(EXERCISES, PROOFS) == []


def test_an_exercise_without_proofs_is_refused():
    some = next(iter(PROOFS.values()))
    same = Proof(wrong=some.wrong[:1] * 3, right=some.right)
    assert unproved({"new": None}, {}) == ["new: no proof"]
    assert unproved({}, {"old": some}) == ["old: there is no such exercise"]
    assert "fewer than three" in unproved({"x": None}, {"x": same})[0]
    assert "no right answer" in unproved({"x": None}, {"x": Proof(some.wrong, ())})[0]


@pytest.mark.parametrize("lesson", LESSONS)
def test_solutions_pass(lesson, tmp_path, monkeypatch):
    verdicts = run_notebook(ROOT / "solutions" / f"{lesson}.ipynb", tmp_path, monkeypatch)
    assert set(verdicts) == {name for name, e in EXERCISES.items() if e.lesson == lesson}
    assert {name: verdict.text for name, verdict in verdicts.items() if not verdict.passed} == {}


@pytest.mark.parametrize("lesson", LESSONS)
def test_untouched_stubs_fail_politely(lesson, tmp_path, monkeypatch):
    verdicts = run_notebook(ROOT / "exercises" / f"{lesson}.ipynb", tmp_path, monkeypatch)
    assert set(verdicts) == {name for name, e in EXERCISES.items() if e.lesson == lesson}
    for name, verdict in verdicts.items():
        assert not verdict.passed
        assert verdict.name in ("nothing written", "returned None"), verdict.text
        assert verdict.text.startswith(f"{name}: not yet.")
        assert "Traceback" not in verdict.text
        assert "stub" in verdict.text


@pytest.mark.parametrize(("name", "slip"), WRONG, ids=[f"{n}-{s.label}" for n, s in WRONG])
def test_wrong_answers_get_their_own_diagnosis(name: str, slip: Wrong, tmp_path):
    if slip.diagnosis in ("load out of bounds", "out of bounds") and not interpreting():
        pytest.skip("pointers are watched in the interpreter only; on a GPU this may even be right")
    exercise = find(name)
    imports, answer = solution_cells(ROOT / "solutions" / f"{exercise.lesson}.ipynb", name)
    module = as_module([*imports, edited(answer, slip.edits)], tmp_path)
    verdict = examine(exercise, getattr(module, name))
    assert not verdict.passed
    if slip.diagnosis in HALF and not interpreting():
        assert verdict.name in HALF, verdict.text  # the order of a sum in 16 bits is the GPU's own
    else:
        assert verdict.name == slip.diagnosis, verdict.text


@pytest.mark.parametrize(("name", "fn"), RIGHT, ids=[f"{n}-{fn.__name__}" for n, fn in RIGHT])
def test_right_answers_written_differently_pass(name, fn):
    verdict = examine(find(name), fn)
    assert verdict.passed, verdict.text


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_exercise_tells_its_known_mistakes_apart(exercise: Exercise):
    """Each known mistake, handed in, is recognised as itself: the cases separate them."""
    found = {m.name: examine(exercise, m.function).name for m in exercise.mistakes}
    assert found == {name: name for name in found}


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_notebook_states_what_the_exercise_says(exercise: Exercise):
    notebook = nbformat.read(ROOT / "exercises" / f"{exercise.lesson}.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    statement = prose.split(f"`{exercise.name}`: ")[-1]
    assert re.match(
        rf".*\n\n\*Difficulty {exercise.difficulty} of 5, about {exercise.minutes} minutes\.",
        statement,
    )
    assert re.search(rf"\| `{exercise.name}`: .* \| {exercise.difficulty} of 5 \|", prose)
    assert 1 <= exercise.difficulty <= 5
    assert len(exercise.hints) >= 3
    assert "<details><summary>" in statement


@pytest.mark.parametrize(
    ("name", "file", "kernels"),
    [
        ("mul", "mul", {"mul_kernel"}),
        ("softmax", "softmax", {"softmax_kernel"}),
        ("softmax_online", "softmax", {"softmax_online_kernel"}),
        ("skip_rms_norm", "skip_rms_norm", {"skip_rms_norm_kernel"}),
        ("rope", "rope", {"rope_kernel", "rotate_heads"}),
        ("swiglu", "swiglu", {"swiglu_kernel"}),
    ],
)
def test_a_solution_that_rebuilds_a_kernel_is_the_package_kernel(name, file, kernels):
    _, answer = solution_cells(ROOT / "solutions" / f"{find(name).lesson}.ipynb", name)
    theirs = {f.name: f for f in ast.parse(answer).body if isinstance(f, ast.FunctionDef)}
    module = importlib.import_module(f"litellama.kernels.{file}")
    for kernel in kernels:
        ours = textwrap.dedent(inspect.getsource(getattr(module, kernel).fn))
        assert ast.dump(theirs[kernel]) == ast.dump(ast.parse(ours).body[0])
