"""Running a reader's answers in a process of its own, each with a time limit.

The process runs ``main``: it reads answers as JSON from its standard input and writes a line of
JSON for each.  What the answers print goes nowhere, and they have no input.  One
that runs too long, or takes the process down with it, is noted as that, and a new process goes on
with the next.
"""

import contextlib
import json
import linecache
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from litellama.course.answers import Answer
from litellama.course.check import examine
from litellama.course.diagnosis import their_line
from litellama.course.exercises import find
from litellama.course.lessons import ROOT
from litellama.errors import ExerciseError

START_SECONDS = 120.0  # for torch and Triton to be imported, on a slow disk
PROGRAM = "import sys; from litellama.course.judge import main; main(sys.argv[1])"


@dataclass(frozen=True)
class Judgement:
    """passed, the name of the diagnosis, and the text that ``check`` prints."""

    passed: bool
    name: str
    text: str


def judge(
    answers: Sequence[Answer], folder: Path, seconds: float = 60.0
) -> Iterator[tuple[Answer, Judgement]]:
    """Run ``check`` on each answer, ``seconds`` at most for each, with ``folder`` as directory."""
    left = list(answers)
    while left:
        for answer, judgement in _in_one_process(left, folder, seconds):
            left.remove(answer)
            yield answer, judgement


def _in_one_process(
    answers: list[Answer], folder: Path, seconds: float
) -> Iterator[tuple[Answer, Judgement]]:
    """Judge answers in order, until one ends the process; at least one."""
    with _process(answers, folder) as (process, replies):
        if _next(replies, START_SECONDS) is None:
            raise ExerciseError(f"the process for the answers did not start: {sys.executable}")
        for answer in list(answers):
            try:
                reply = _next(replies, seconds)
            except queue.Empty:
                text = f"it was still running after {seconds:g} seconds, and was stopped."
                yield answer, Judgement(False, "time limit", f"{answer.exercise}: {text}")
                return
            if reply is None:
                text = f"it ended the process that ran it ({_ending(process)})."
                yield answer, Judgement(False, "ended the process", f"{answer.exercise}: {text}")
                return
            yield answer, Judgement(**reply)


@contextlib.contextmanager
def _process(
    answers: list[Answer], folder: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", "queue.Queue[bytes | None]"]]:
    """A process at work on the answers and its replies, line by line; None when there are no more.

    It leads a group of its own, so that what it has started ends with it.
    """
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, scratch],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(places)}, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        lines: queue.Queue[bytes | None] = queue.Queue()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps([asdict(a) for a in answers]).encode())
            threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True).start()
            yield process, lines
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _collect(stream: Any, lines: "queue.Queue[bytes | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next(replies: "queue.Queue[bytes | None]", seconds: float) -> dict[str, Any] | None:
    """The next reply; None if the process has ended; ``queue.Empty`` if it takes too long."""
    line = replies.get(timeout=seconds)
    return None if line is None else json.loads(line)


def _ending(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait()
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


# --- in the process ------------------------------------------------------------------------------


def run_cells(cells: Sequence[str], folder: Path, name: str) -> ModuleType:
    """Run code cells in order in one new module.

    Each is a file in ``folder``, because Triton reads the source of its kernels; and so a line
    number in an error is that of the cell.
    """
    module = sys.modules[name] = ModuleType(name)
    for number, source in enumerate(cells, start=1):
        path = folder / f"{name}_{number}.py"
        path.write_text(source, encoding="utf-8")
        module.__file__ = str(path)
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def examine_answer(answer: Answer, folder: Path) -> Judgement:
    """Run an answer's cells, and then what ``check`` does; whatever they raise is the judgement."""
    try:
        module = run_cells(answer.cells, folder, f"answer_{answer.exercise}")
        function = eval(answer.function, module.__dict__)
        verdict = examine(find(answer.exercise), function)
    except BaseException as error:  # SystemExit as well: it is the answer's, not ours
        return Judgement(False, "raised", f"{answer.exercise}: not yet.\n  {_described(error)}")
    return Judgement(verdict.passed, verdict.name, verdict.text)


def _described(error: BaseException) -> str:
    """What a cell raised, and at which of its lines."""
    message = (str(error).strip().splitlines() or [""])[0]
    place = their_line(error)
    if isinstance(error, SyntaxError) and error.lineno:
        message, place = error.msg, (error.lineno, (error.text or "").strip())
    at = f", at line {place[0]}: {place[1]}" if place else ""
    return f"its cells raise {type(error).__name__}: {message}{at}"


def main(scratch: str) -> None:
    """Judge the answers that standard input brings; replies go where standard output went."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    answers = [Answer(**given) for given in json.load(sys.stdin)]
    print("{}", file=replies, flush=True)  # ready: all is imported, and the first one's time begins
    for answer in answers:
        linecache.clearcache()
        print(json.dumps(asdict(examine_answer(answer, Path(scratch)))), file=replies, flush=True)
