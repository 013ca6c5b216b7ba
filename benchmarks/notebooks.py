"""Runs every lesson and solution as `make test` does, and records which passed, where.

python benchmarks/notebooks.py -o benchmarks/notebooks_h100.json     on a GPU: kernels compiled
python benchmarks/notebooks.py notebooks/02* -o some.json            only these

Each notebook is a process of pytest with nbval and has a fresh kernel: every cell has to run, and
what is tagged nbval-check-output has to be printed as it is stored.  The record is written anew
after each notebook, and the exit code is 1 if one failed.  With --jobs several run at a time: their
seconds are then those of a busy machine.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import torch

from litellama.bench import machine
from litellama.kernels.backend import HAS_TRITON, interpreting

ROOT = Path(__file__).resolve().parents[1]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def main(words: list[str] | None = None) -> int:
    """Run the notebooks, write the record, and say what failed; the exit code."""
    args = arguments(words)
    paths = [path.resolve() for path in args.notebooks] or [
        path
        for folder in ("notebooks", "solutions")
        for path in sorted((ROOT / folder).glob("*.ipynb"))
    ]
    record = head(args, len(paths))
    start = time.perf_counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(run, path, args.timeout) for path in paths]
        for done in as_completed(running):
            result, output = done.result()
            record["notebooks"].append(result)
            record["notebooks"].sort(key=lambda row: row["notebook"])
            record["passed"] = sum(row["passed"] for row in record["notebooks"])
            record["cells"] = sum(row["cells"] for row in record["notebooks"])
            record["seconds"] = round(time.perf_counter() - start, 1)
            write(record, args.output)
            verdict = "passed" if result["passed"] else "FAILED"
            print(f"{verdict} {result['notebook']}: {result['cells']} cells, "
                  f"{result['seconds']} s", flush=True)  # fmt: skip
            if not result["passed"]:
                print(output[-4000:], flush=True)
    print(f"{record['passed']} of {len(paths)} notebooks passed; wrote {args.output}")
    return int(record["passed"] < len(paths))


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all lessons and solutions if none")
    parser.add_argument("-o", "--output", type=Path, default=Path("notebooks.json"))
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a cell may take")
    return parser.parse_args(words)


def head(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Where and how the notebooks run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = machine.describe(device)
    described["versions"]["nbval"] = version("nbval")
    return {
        **described,
        "command": " ".join(
            ["python notebooks.py", *(path.name for path in args.notebooks), f"--jobs {args.jobs}"]
        ),
        "kind": "notebooks",
        "kernels": "interpreted" if interpreting() else "compiled" if HAS_TRITON else "torch",
        "asked_for": count,
        "passed": 0,
        "cells": 0,
        "seconds": 0.0,
        "notebooks": [],
    }


def run(path: Path, timeout: int) -> tuple[dict[str, Any], str]:
    """One notebook: its row of the record, and what pytest printed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        start = time.perf_counter()
        process = subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
                "--nbval-current-env", f"--nbval-cell-timeout={timeout}", f"--junitxml={report}",
                str(path),
            ],
            cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        seconds = round(time.perf_counter() - start, 1)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    bad = [case for case in cases if case.find("failure") is not None]
    # pytest calls it 5 that there was nothing to run: a page without code.
    expected = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    passed = process.returncode == (0 if expected else 5) and len(cases) == expected
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    row = {"notebook": name, "passed": passed, "cells": len(cases), "seconds": seconds}
    if not passed:
        names = [str(case.get("name")) for case in bad]
        row["failed"] = names or [f"pytest ended with exit code {process.returncode}"]
    return row, ANSI.sub("", process.stdout)


def write(record: dict[str, Any], path: Path) -> None:
    """One line for each notebook."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('{"notebook"', '\n{"notebook"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
