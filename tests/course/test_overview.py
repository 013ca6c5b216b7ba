"""``litellama course``: what is counted from a reader's notebooks, whatever is in them."""

import json
import shutil
import sys
import time
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))  # for proof.py

from proof import ROOT

from litellama.cli import app
from litellama.course import overview
from litellama.course.answers import find_answer, read_cell
from litellama.course.exercises import all_exercises
from litellama.course.overview import DONE, MISSING, TRIED, UNTOUCHED, examine_folder
from litellama.course.stubs import make_exercise
from litellama.errors import ExerciseError

LESSONS = sorted({exercise.lesson for exercise in all_exercises().values()})
PUBLISHED = [name for name in LESSONS if (ROOT / "exercises" / f"{name}.ipynb").exists()]
CACHE = "10_kv_cache"
MUL = "01_first_triton_kernel"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reader's folder with the notebooks of lessons 01 and 10 as they are given."""
    made = tmp_path / "exercises"
    made.mkdir()
    for name in (MUL, CACHE):
        shutil.copy(ROOT / "exercises" / f"{name}.ipynb", made)
    return made


def edit(path: Path, **answers: str | None) -> None:
    """Replace the cell that defines each function; None deletes the cell that checks it."""
    notebook = nbformat.read(path, as_version=4)
    for name, source in answers.items():
        mark = f'check("{name}"' if source is None else f"\ndef {name}("
        (cell,) = (c for c in notebook.cells if c.cell_type == "code" and mark in f"\n{c.source}")
        if source is None:
            notebook.cells.remove(cell)
        else:
            cell.source = source
    nbformat.write(notebook, path)


def statuses(folder: Path, lesson: int, **options) -> dict[str, str]:
    (made,) = examine_folder(folder, lesson, **options)
    return {entry.exercise.name: entry.status for entry in made.entries}


def course(*arguments: object):
    return CliRunner().invoke(app, ["course", *map(str, arguments)])


# --- the three counts ----------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", PUBLISHED)
def test_with_the_solutions_put_in_all_pass(lesson):
    said: list[str] = []
    (made,) = examine_folder(ROOT / "solutions", int(lesson[:2]), say=said.append)
    assert {e.exercise.name: e.text for e in made.entries if e.status != DONE} == {}
    assert made.notes == []
    assert made.next() is None
    names = ", ".join(entry.exercise.name for entry in made.entries)
    assert [line.split(": ")[1] for line in said] == [names], "each is named before it is run"


def test_untouched_stubs_are_untouched_and_never_run(tmp_path, monkeypatch):
    given = tmp_path / "exercises"
    given.mkdir()
    for name in PUBLISHED:
        solution = nbformat.read(ROOT / "solutions" / f"{name}.ipynb", as_version=4)
        nbformat.write(make_exercise(solution), given / f"{name}.ipynb")
    monkeypatch.setattr("subprocess.Popen", None)
    said: list[str] = []
    for made in examine_folder(given, say=said.append):
        if made.lesson in PUBLISHED:
            assert made.count(UNTOUCHED) == len(made.entries)
            assert made.notes == []
    assert said == []


def test_done_and_tried_and_what_is_next(folder):
    edit(
        folder / f"{MUL}.ipynb",
        mul="import torch\n\n\ndef mul(a, b):\n    return torch.mul(a, b)",
        mul_rows="def mul_rows(a, b):\n    return a + b",
    )
    (made,) = examine_folder(folder, 1)
    entries = {entry.exercise.name: entry for entry in made.entries}
    assert entries["mul"].status == DONE
    assert entries["mul_rows"].status == TRIED
    assert entries["mul_rows"].text.startswith("mul_rows: not yet.")
    assert entries["relu_mul"].status == entries["mul_cost"].status == UNTOUCHED
    assert made.next() is entries["mul_rows"], "what was begun comes before what was not"


def test_without_the_solutions_the_stubs_mark_tells(folder, monkeypatch):
    monkeypatch.setattr(overview, "_stubs", lambda folder, name: None)
    assert set(statuses(folder, 1).values()) == {UNTOUCHED}


# --- whatever is in the notebooks ----------------------------------------------------------------

ENDLESS = (
    "import torch\n\n\ndef read_kv(cache, block_table, length):\n    while True:\n        pass"
)
RAISES = "def cached_tokens(prompt, earlier, block_size):\n    return 0\n\n\nundefined_name + 1"
LEAVES = "import os\n\n\ndef lru_hits(keys, capacity):\n    os._exit(3)"
RIGHT = (
    "%matplotlib inline\ndef write_shared(cache, key, blocks, references, position, spare):\n"
    "    size = cache.shape[1]\n    block, new = blocks[position // size], cache.clone()\n"
    "    if references[block] > 1:\n        new[spare] = new[block]\n        block = spare\n"
    "    new[block, position % size] = key\n    return new, block"
)


def test_a_loop_an_error_and_an_exit_leave_the_others_counted(folder):
    edit(
        folder / f"{CACHE}.ipynb",
        read_kv=ENDLESS, cached_tokens=RAISES, lru_hits=LEAVES, write_shared=RIGHT,
    )  # fmt: skip
    edit(folder / f"{CACHE}.ipynb", write_shared=None)
    start = time.monotonic()
    (made,) = examine_folder(folder, 10, seconds=3)
    assert time.monotonic() - start < 60
    by_name = {entry.exercise.name: entry for entry in made.entries}
    assert {name: entry.status for name, entry in by_name.items()} == {
        "kv_cache_cost": UNTOUCHED, "read_kv": TRIED, "cached_tokens": TRIED, "lru_hits": TRIED,
        "write_shared": DONE,
    }  # fmt: skip
    assert "read_kv: it was still running after 3 seconds" in by_name["read_kv"].text
    assert "NameError: name 'undefined_name' is not defined" in by_name["cached_tokens"].text
    assert "at line 5: undefined_name + 1" in by_name["cached_tokens"].text
    assert "it ended the process that ran it (exit code 3)" in by_name["lru_hits"].text
    assert made.notes == ["write_shared: the cell that checks it is gone; looked at all the same"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def mul(a, b)\n    return a * b", "SyntaxError: expected ':', at line 1: def mul(a, b)"),
        ("def mul(a, b):\n    raise SystemExit(0)", "SystemExit"),
        ("name = input()\n\n\ndef mul(a, b):\n    return a * b", "EOFError"),
        ("import no_such_module\n\n\ndef mul(a, b):\n    return a", "No module named"),
        ("def mul(a, b):\n    return mul(a, b)", "RecursionError"),
        ("!date\nmul = 3", "check needs the function itself"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\ndef mul(a, b): ...", "SIGSEGV"),
    ],
    ids=["syntax", "exit", "input", "import", "recursion", "number", "crash"],
)
def test_what_a_cell_can_do(folder, source, reason):
    edit(folder / f"{MUL}.ipynb", mul=source, mul_cost="def mul_cost(n, size):\n    return 1, 2")
    (made,) = examine_folder(folder, 1)
    by_name = {entry.exercise.name: entry for entry in made.entries}
    assert by_name["mul"].status == TRIED
    assert reason in by_name["mul"].text
    assert by_name["mul_cost"].status == TRIED
    assert by_name["mul_cost"].verdict not in ("", "ended the process")


def test_what_an_answer_starts_ends_with_it(folder):
    beats = folder / "beats"
    beat = f"while true; do echo >> '{beats}'; sleep 0.1; done"
    edit(
        folder / f"{MUL}.ipynb",
        mul=f"import subprocess\n\n\ndef mul(a, b):\n    subprocess.run(['sh', '-c', {beat!r}])",
    )
    (made,) = examine_folder(folder, 1, seconds=3)
    assert made.entries[0].verdict == "time limit"
    before = beats.stat().st_size
    time.sleep(1)
    assert 0 < before == beats.stat().st_size


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"cells": 3}', b"<<<<<<< HEAD\n", b'{"nbformat": 99}'],
)
def test_a_notebook_that_cannot_be_read_is_one_line(folder, content):
    (folder / f"{MUL}.ipynb").write_bytes(content)
    first, *others = examine_folder(folder)
    assert first.count(MISSING) == len(first.entries)
    assert len(first.notes) == 1
    assert first.notes[0].startswith(f"{MUL}.ipynb cannot be read: ")
    cache = next(made for made in others if made.lesson == CACHE)
    assert cache.count(UNTOUCHED) == len(cache.entries)


def test_fields_that_are_missing_or_unknown_do_not_matter(folder, capsys, recwarn):
    path = folder / f"{MUL}.ipynb"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell.pop("id")
        cell["mine"] = 1
    path.write_text(json.dumps(notebook))
    assert set(statuses(folder, 1).values()) == {UNTOUCHED}
    assert capsys.readouterr().err == ""
    assert not recwarn.list


def test_a_folder_with_the_name_of_a_notebook_cannot_be_read(folder):
    (folder / f"{MUL}.ipynb").unlink()
    (folder / f"{MUL}.ipynb").mkdir()
    (made,) = examine_folder(folder, 1)
    assert "cannot be read" in made.notes[0]


def test_a_renamed_notebook_is_found_by_what_it_holds(folder):
    (folder / f"{MUL}.ipynb").rename(folder / "my kernels.ipynb")
    (made,) = examine_folder(folder, 1)
    assert made.count(UNTOUCHED) == len(made.entries)
    assert made.notes == [
        f"{MUL}.ipynb is not there; read my kernels.ipynb, which has its exercises"
    ]


def test_a_copy_is_left_aside_and_named(folder):
    shutil.copy(folder / f"{MUL}.ipynb", folder / f"{MUL}-Copy1.ipynb")
    (made,) = examine_folder(folder, 1)
    assert made.notes == [f"{MUL}-Copy1.ipynb: not read, because {MUL}.ipynb is there"]


def test_a_missing_notebook_and_a_missing_answer(folder):
    (folder / f"{CACHE}.ipynb").unlink()
    edit(folder / f"{MUL}.ipynb", mul="# gone")
    mul, cache = (next(examine_folder(folder, lesson)) for lesson in (1, 10))
    assert cache.count(MISSING) == len(cache.entries)
    assert "is not in" in cache.notes[0]
    assert mul.count(MISSING) == 1
    assert mul.notes == ["mul: no cell defines it, so it could not be looked at"]


# --- which cells are an answer's -----------------------------------------------------------------


def chosen(*sources: str, name: str = "mul") -> str | None:
    answer = find_answer([read_cell(source) for source in sources], name)
    return answer and "|".join(answer.cells)


def test_only_the_cells_that_an_answer_needs_are_taken():
    helper, mul, check = "def half(x): return x / 2", "def mul(a, b): return half(a)", "mul(1, 2)"
    assert chosen("import os", helper, "1 / 0", mul, check) == f"{helper}|{mul}"
    assert chosen(mul, helper) == f"{mul}|{helper}", "a name may come from below"
    assert chosen("half = 1", helper, mul, "half = 2") == f"{helper}|{mul}", "the nearest above"
    assert chosen("from torch import *", mul) == f"from torch import *|{mul}"
    assert chosen("%%time\nhalf = 1", mul) == f"\nhalf = 1|{mul}"


def test_the_function_is_the_one_that_is_checked():
    mine = "def my_mul(a, b): return a * b"
    assert chosen("def mul(a, b): pass", mine, 'check("mul", my_mul)') == mine
    assert chosen("import torch", 'check("mul", torch.mul)') == "import torch"
    assert chosen("import torch", 'check("mul", fn=lambda a, b: a * b)') == ""
    assert chosen("import torch", 'check("mul", mul)') is None
    first, last = "def mul(a, b): return 1", "def mul(a, b): return 2"
    assert chosen(first, 'check("mul", mul)', last) == last, "the latest attempt"


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_its_exit_code_says_whether_all_is_done(folder):
    shutil.copy(ROOT / "solutions" / f"{MUL}.ipynb", folder)
    result = course(folder)
    assert result.exit_code == 1
    assert "01 A first Triton" in result.stdout
    assert "kv_cache_cost" in result.stdout, "what is next"
    assert "Running your answers of lesson 01" in result.stderr
    done = course(folder, "--lesson", "01")
    assert done.exit_code == 0
    assert "4 of 4 exercises done." in done.stdout


def test_one_lesson_shows_what_check_says(folder):
    edit(folder / f"{MUL}.ipynb", mul="def mul(a, b):\n    return a + b")
    result = course(folder, "--lesson", "1")
    assert "mul: not yet." in result.stdout
    assert "the two are added" in " ".join(result.stdout.split())


def test_json_is_one_object(folder):
    edit(folder / f"{MUL}.ipynb", mul="def mul(a, b):\n    return a * b")
    result = course(folder, "--lesson", "01", "--json")
    told = json.loads(result.stdout)
    assert (told["done"], told["total"]) == (1, 4)
    assert [lesson["lesson"] for lesson in told["lessons"]] == [MUL]
    assert told["lessons"][0]["exercises"][0] == {
        "name": "mul", "status": "done", "difficulty": 1, "minutes": 10, "verdict": "right",
        "text": told["lessons"][0]["exercises"][0]["text"],
    }  # fmt: skip


@pytest.mark.parametrize("lesson", ["00", "99", "x", "-1"])
def test_a_lesson_without_exercises_is_an_error(folder, lesson):
    result = course(folder, "--lesson", lesson)
    assert result.exit_code == 1
    assert "there are no exercises of lesson" in result.stderr


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    assert "there is no folder" in course(tmp_path / "nowhere").stderr


def test_the_folder_is_found_from_where_the_reader_is(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    assert overview.exercises_folder() == folder
    monkeypatch.chdir(folder.parent)
    assert overview.exercises_folder() == folder
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert overview.exercises_folder() == ROOT / "exercises"
    monkeypatch.setattr(overview, "ROOT", tmp_path / "elsewhere")
    with pytest.raises(ExerciseError, match="name the folder"):
        overview.exercises_folder()


def test_progress_prints_in_a_notebook(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    overview.progress(1)
    assert "0 of 4 exercises done." in capsys.readouterr().out
