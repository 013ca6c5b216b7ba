"""The record of the notebooks' run on a machine, tried on notebooks that pass and that do not."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for tool.py

from tool import code, load, notebook, prose, stdout, write

from litellama.kernels.backend import interpreting

recorder = load("notebooks", "benchmarks")


def record_of(folder: Path, capsys, **notebooks) -> tuple[int, dict, str]:
    paths = [str(write(made, folder / f"{name}.ipynb")) for name, made in notebooks.items()]
    output = folder / "record.json"
    failures = recorder.main([*paths, "-o", str(output), "--jobs", "2"])
    return failures, json.loads(output.read_text(encoding="utf-8")), capsys.readouterr().out


def test_notebooks_that_pass(tmp_path, capsys):
    code_, record, out = record_of(
        tmp_path,
        capsys,
        b=notebook(prose("# A lesson"), code("x = 1"), code("assert x == 1")),
        a=notebook(prose("No code.")),
    )
    assert code_ == 0
    assert "2 of 2 notebooks passed" in out
    rows = [(row["notebook"], row["passed"], row["cells"]) for row in record["notebooks"]]
    assert rows == [("a.ipynb", True, 0), ("b.ipynb", True, 2)]
    assert (record["kind"], record["asked_for"], record["passed"]) == ("notebooks", 2, 2)
    assert record["command"] == "python notebooks.py b.ipynb a.ipynb --jobs 2"
    assert (record["kernels"] == "interpreted") == interpreting()
    assert str(tmp_path) not in json.dumps(record)
    assert {"torch", "nbval"} < set(record["versions"])


def test_notebooks_that_fail_are_named_with_their_cells(tmp_path, capsys):
    changed = code("print('two')", stdout("one\n"), tags=["nbval-check-output"])
    code_, record, out = record_of(
        tmp_path,
        capsys,
        raises=notebook(code("1"), code("assert 1 + 1 == 3")),
        changed=notebook(changed),
    )
    assert code_ == 1
    assert "0 of 2 notebooks passed" in out
    assert "assert 1 + 1 == 3" in out
    assert [row["passed"] for row in record["notebooks"]] == [False, False]
    (first,), (second,) = (row["failed"] for row in record["notebooks"])
    assert first.endswith("Cell 0")
    assert second.endswith("Cell 1")


def test_a_pytest_that_does_not_start_is_a_failure(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # no nbval
    code_, record, _ = record_of(tmp_path, capsys, a=notebook(code("1")))
    assert code_ == 1
    assert record["notebooks"][0]["failed"] == ["pytest ended with exit code 4"]


@pytest.mark.parametrize("kind", ["notebooks", "launches"])
def test_the_readme_shows_no_table_of_it(tmp_path, monkeypatch, kind):
    summary = load("summary", "benchmarks")
    monkeypatch.setattr(summary, "HERE", tmp_path)
    (tmp_path / "notebooks_x.json").write_text(json.dumps({"kind": kind}))
    assert not list(summary.records())
