"""The tools that make, run and guard notebooks, tried on notebooks made to be refused."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for tool.py

from tool import ROOT, code, load, notebook, prose, stdout, write

from litellama.course.stubs import AS_MADE

guard = load("check_notebooks")
maker = load("make_exercises")
runner = load("run_notebooks")

PNG = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
ASSERTS = "assert 1 + 1 == 2"


def html(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data={"text/html": text})


def plain(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data={"text/plain": text})


# --- the guard -----------------------------------------------------------------------------------

GOOD = {
    "an assertion": [code(ASSERTS)],
    "a check": [code('check("mul", mul)')],
    "a described plot": [code(ASSERTS, PNG, mystnb={"image": {"alt": "A falling line"}})],
    "a described picture": [prose("![The map](map.svg)"), code(ASSERTS)],
    "a described svg": [code(ASSERTS, html('<svg aria-label="Three boxes"><g/></svg>'))],
    "a titled svg": [code(ASSERTS, html("<svg><title>Three boxes</title></svg>"))],
    "a picture's syntax in a code block": [prose("```\n![](x.png)\n```"), code(ASSERTS)],
    "a url that looks like a path": [prose("https://example.org/home/page"), code(ASSERTS)],
}
BAD = {
    "stored without having been executed": [code(ASSERTS, count=None)],
    "not in order from the top": [code(ASSERTS, count=2)],
    "an empty code cell": [code(ASSERTS), code("")],
    "stored with an error: ValueError: no": [
        code(
            ASSERTS, nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
        )
    ],
    "stored with text on stderr": [
        code(ASSERTS, nbformat.v4.new_output("stream", name="stderr", text="UserWarning: hm"))
    ],
    "a machine's path in an output: '/home/ada/x.pt'": [
        code(ASSERTS, stdout("saved /home/ada/x.pt"))
    ],
    "/tmp/abc": [code(ASSERTS, plain("PosixPath('/tmp/abc')"))],
    "a machine's path in an output: 'C:": [code(ASSERTS, stdout(r"C:\Users\ada\model"))],
    "a machine's path in the source": [code(f"open('/Users/ada/model')\n{ASSERTS}")],
    "a memory address": [code(ASSERTS, plain("<Figure at 0x7f12ab34cd56>"))],
    "a picture (image/png) without alternative text": [code(ASSERTS, PNG)],
    "cell-01: a picture without alternative text": [prose("![](map.svg)"), code(ASSERTS)],
    "cell-02: a picture without alternative text": [
        prose("x"),
        code(ASSERTS, html('<img src="data:image/png;base64,iVBO">')),
    ],
    "its outputs have": [code(ASSERTS, stdout("x" * 400_000))],
    "nothing is asserted": [code("print(1)", stdout("1"))],
    "timings are stored": [code(ASSERTS, execution={"iopub.status.idle": "2026-01-01"})],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_notebook_passes(name, tmp_path):
    assert guard.check_file(write(notebook(*GOOD[name]), tmp_path / "notebooks" / "x.ipynb")) == []


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_notebook_is_refused(problem, tmp_path):
    path = write(notebook(*BAD[problem]), tmp_path / "notebooks" / "x.ipynb")
    found = guard.check_file(path)
    assert any(problem in line for line in found), found
    assert guard.main([str(path)]) == 1


def test_random_ids_widget_state_and_versions_are_refused(tmp_path):
    made = notebook(code(ASSERTS))
    made.cells[0].id = "f3a9c1d2"
    made.metadata["widgets"] = {}
    made.metadata["language_info"] = {"name": "python", "version": "3.11.9"}
    found = "\n".join(guard.check_file(write(made, tmp_path / "notebooks" / "x.ipynb")))
    assert "cell ids are not" in found
    assert "the state of widgets" in found
    assert "the version of Python" in found


def test_an_exercise_holds_no_outputs_and_need_not_assert(tmp_path):
    unsolved = write(notebook(code("pass", count=None)), tmp_path / "exercises" / "x.ipynb")
    assert guard.check_file(unsolved) == []
    solved = write(notebook(code("pass", stdout("1"))), tmp_path / "exercises" / "x.ipynb")
    assert "stored without outputs" in guard.check_file(solved)[0]


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text("{}")
    assert "not a valid notebook" in guard.check_file(path)[0]


def test_the_notebooks_of_this_project_pass():
    assert guard.main([]) == 0


# --- exercises from solutions --------------------------------------------------------------------

SOLUTION = [
    prose("# Exercises", tags=[]),
    prose("Why it works", tags=["solution"]),
    code(
        "def f(x):\n    y = 1\n    ### BEGIN SOLUTION\n    for _ in x:\n        y += 1\n"
        "    ### END SOLUTION\n    return y",
        count=3,
    ),
    code('assert check("f", f)\n# hint("f")', stdout("f: right."), count=4),
    code("print('shown in the solution only')", count=5, tags=["solution"]),
]


def make(tmp_path: Path, *cells) -> nbformat.NotebookNode:
    write(notebook(*cells), tmp_path / "solutions" / "01_x.ipynb")
    assert maker.main(["--root", str(tmp_path)]) == 0
    return nbformat.read(tmp_path / "exercises" / "01_x.ipynb", as_version=4)


def test_solutions_are_removed_and_stubs_put_in(tmp_path):
    exercise = make(tmp_path, *SOLUTION)
    assert [cell.source for cell in exercise.cells] == [
        "# Exercises",
        "def f(x):\n    y = 1\n    pass  # YOUR CODE HERE\n    return y",
        'check("f", f);\n# hint("f")',
    ]
    assert [cell.id for cell in exercise.cells] == ["cell-01", "cell-03", "cell-04"]
    assert all(
        not cell.outputs and cell.execution_count is None
        for cell in exercise.cells
        if cell.cell_type == "code"
    )


def test_the_same_solutions_give_the_same_bytes_and_drift_is_refused(tmp_path, capsys):
    make(tmp_path, *SOLUTION)
    path = tmp_path / "exercises" / "01_x.ipynb"
    before = path.read_bytes()
    assert maker.main(["--root", str(tmp_path)]) == 0
    assert path.read_bytes() == before
    assert maker.main(["--check", "--root", str(tmp_path)]) == 0
    path.write_text(path.read_text().replace("y = 1", "y = 2"))
    assert maker.main(["--check", "--root", str(tmp_path)]) == 1
    assert "exercises/01_x.ipynb: not what solutions/01_x.ipynb gives" in capsys.readouterr().out
    assert path.read_bytes() != before  # --check writes nothing


def answered(path: Path, answer: str = "return 41") -> bytes:
    """A reader writes an answer into an exercise notebook, and JupyterLab saves it."""
    theirs = nbformat.read(path, as_version=4)
    theirs.cells[1].source = theirs.cells[1].source.replace("pass  # YOUR CODE HERE", answer)
    theirs.cells[1].outputs = [stdout("42\n")]
    nbformat.write(theirs, path)
    return path.read_bytes()


def test_what_a_reader_wrote_is_left_alone(tmp_path, capsys):
    make(tmp_path, *SOLUTION)
    path = tmp_path / "exercises" / "01_x.ipynb"
    theirs = answered(path)
    for update in (SOLUTION, [*SOLUTION, prose("More to read.")]):
        write(notebook(*update), tmp_path / "solutions" / "01_x.ipynb")
        assert maker.main(["--root", str(tmp_path)]) == 0
        assert path.read_bytes() == theirs
        said = capsys.readouterr().out
        assert "exercises/01_x.ipynb has a reader's work in it and was left alone" in said
        assert "--force exercises/01_x.ipynb" in said
        assert "0 changed" in said
    assert maker.main(["--check", "--root", str(tmp_path)]) == 1  # CI wants them as they are made


def test_force_keeps_what_it_replaces(tmp_path, capsys):
    as_made = make(tmp_path, *SOLUTION)
    path, mine = tmp_path / "exercises" / "01_x.ipynb", tmp_path / "exercises" / "mine"
    first, second = (
        (answered(path, answer), maker.main(["--force", str(path), "--root", str(tmp_path)]))[0]
        for answer in ("return 41", "return 42")
    )
    assert first != second
    assert (mine / "01_x.ipynb").read_bytes() == first
    assert (mine / "01_x_2.ipynb").read_bytes() == second
    assert nbformat.read(path, as_version=4) == as_made
    assert "exercises/mine/01_x_2.ipynb" in capsys.readouterr().out
    assert maker.main(["--check", "--root", str(tmp_path)]) == 0  # what was kept disturbs nothing
    assert maker.main(["--force", "--root", str(tmp_path)]) == 0
    assert len(list(mine.iterdir())) == 2  # nothing was written in, and nothing is kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(path.read_text()[:-40]),
        lambda path: path.write_bytes(b"\xff\xfe notes"),
        lambda path: path.write_text(path.read_text().replace("# Exercises", "# My notes")),
        lambda path: path.write_text(path.read_text().replace(AS_MADE, "something")),
    ],
    ids=["cut short", "no notebook", "prose", "no digest"],
)
def test_what_may_be_a_readers_is_left_alone(tmp_path, damage):
    make(tmp_path, *SOLUTION)
    path = tmp_path / "exercises" / "01_x.ipynb"
    damage(path)
    theirs = path.read_bytes()
    write(notebook(*SOLUTION, prose("More to read.")), tmp_path / "solutions" / "01_x.ipynb")
    assert maker.main(["--root", str(tmp_path)]) == 0
    assert path.read_bytes() == theirs


def test_a_notebook_that_was_only_run_takes_an_update(tmp_path):
    before = make(tmp_path, *SOLUTION)
    path = tmp_path / "exercises" / "01_x.ipynb"
    before.cells[1].outputs, before.cells[1].execution_count = [stdout("hm\n")], 3
    nbformat.write(before, path)
    after = make(tmp_path, *SOLUTION, prose("More to read."))
    assert [cell.source for cell in after.cells][-1] == "More to read."
    assert not after.cells[1].outputs


def test_only_the_named_are_made(tmp_path, capsys):
    write(notebook(*SOLUTION), tmp_path / "solutions" / "02_y.ipynb")
    write(notebook(*SOLUTION), tmp_path / "solutions" / "01_x.ipynb")
    assert maker.main(["exercises/02_y.ipynb", "--root", str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "exercises").iterdir()] == ["02_y.ipynb"]
    with pytest.raises(SystemExit):
        maker.main(["exercises/03_z.ipynb", "--root", str(tmp_path)])
    assert "there is no solutions/03_z.ipynb" in capsys.readouterr().err


def test_a_stray_exercise_is_refused(tmp_path, capsys):
    make(tmp_path, *SOLUTION)
    write(notebook(code("1", count=None)), tmp_path / "exercises" / "02_y.ipynb")
    assert maker.main(["--check", "--root", str(tmp_path)]) == 1
    assert "there is no solutions/02_y.ipynb" in capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION\n1",
        "### END SOLUTION",
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
    ],
)
def test_markers_that_do_not_pair_are_refused(source):
    with pytest.raises(ValueError, match="cell-01: ### "):
        maker.make_exercise(notebook(code(source)))


def test_a_marker_in_prose_is_refused():
    with pytest.raises(ValueError, match="tag 'solution'"):
        maker.make_exercise(notebook(prose("### BEGIN SOLUTION\nbecause\n### END SOLUTION")))


def test_the_exercises_of_this_project_are_up_to_date():
    assert maker.main(["--check"]) == 0


# --- running -------------------------------------------------------------------------------------


def test_running_twice_stores_the_same_bytes(tmp_path):
    path = write(
        notebook(
            prose("# A lesson"),
            code("import sys\nprint('one')\nsys.stdout.flush()\nprint('two')", count=None),
            code("1 + 1", count=7),
        ),
        tmp_path / "notebooks" / "x.ipynb",
    )
    assert runner.main([str(path)]) == 0
    first = path.read_bytes()
    assert runner.main([str(path)]) == 0
    assert path.read_bytes() == first
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[1].outputs == [stdout("one\ntwo\n")]
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2]
    assert not any("execution" in cell.metadata for cell in stored.cells)
    assert [p for p in guard.check_file(path) if "asserted" not in p] == []


def test_a_notebook_that_raises_is_reported_and_not_saved(tmp_path, capsys):
    path = write(notebook(code("raise ValueError('no')", count=None)), tmp_path / "x.ipynb")
    before = path.read_bytes()
    assert runner.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert "ValueError: no" in capsys.readouterr().out


def test_a_widget_keeps_its_static_picture_only():
    view = {"model_id": "abc", "version_major": 2, "version_minor": 0}
    widget = {runner.WIDGET: view, "text/plain": "interactive(children=...)"}
    pictured = {runner.WIDGET: view, "text/html": "<img alt='bars'>"}
    outputs = [nbformat.v4.new_output("display_data", data=d) for d in (widget, pictured)]
    made = runner.normalise(notebook(code(ASSERTS, *outputs)))
    assert [output.data for output in made.cells[0].outputs] == [{"text/html": "<img alt='bars'>"}]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "exercises").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_exercise_notebooks_run_with_their_stubs(path, capsys):
    assert runner.main(["--no-save", str(path)]) == 0, capsys.readouterr().out


# --- nbval ---------------------------------------------------------------------------------------


def test_nbval_fails_on_a_failing_lesson(tmp_path):
    """What runs the lessons in CI does fail: on an assertion, and on a changed checked output."""
    failing = write(notebook(code("assert 1 + 1 == 3")), tmp_path / "failing.ipynb")
    changed = write(
        notebook(code("print(2)", stdout("1\n"), tags=["nbval-check-output"])),
        tmp_path / "changed.ipynb",
    )
    done = subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"],
            *[
                "--nbval-cell-timeout=60",
                "-p",
                "no:cacheprovider",
                "-q",
                str(failing),
                str(changed),
            ],
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 1
    assert "2 failed" in done.stdout
