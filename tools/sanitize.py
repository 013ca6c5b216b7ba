"""Run the CUDA toolkit's memory checker over one small case of every kernel.

    python tools/sanitize.py               memcheck: reads and writes outside of an allocation
    python tools/sanitize.py racecheck     races between threads in shared memory
    python tools/sanitize.py initcheck     reads of memory that nobody has written

Needs a GPU and ``compute-sanitizer`` (in the CUDA toolkit; not in torch's wheels).  Kernels run ten
to fifty times slower so, hence only the tests marked ``sanitize``; words after the tool go to
pytest: ``-k matvec`` for one kernel.  Ends with an error if the checker or a test found one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")


def find_sanitizer() -> str:
    """The checker on the path, or where CUDA is usually installed."""
    usual = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "compute-sanitizer"
    found = shutil.which("compute-sanitizer") or shutil.which(usual)
    if found is None:
        sys.exit(
            f"compute-sanitizer is neither on the PATH nor at {usual}: install the CUDA toolkit, "
            "or set CUDA_HOME to where it is"
        )
    return found


def main(arguments: list[str]) -> int:
    tool, rest = "memcheck", arguments
    if arguments and not arguments[0].startswith("-"):
        tool, rest = arguments[0], arguments[1:]
    if tool not in TOOLS:
        sys.exit(f"unknown tool {tool!r}: choose one of {', '.join(TOOLS)}")
    # Each tensor in an allocation of its own, so that a step beyond it is a step into nothing.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pytest = [sys.executable, "-m", "pytest", "tests/kernels", "-m", "sanitize", "-q", "-x", *rest]
    options = ["--tool", tool, "--error-exitcode", "1", "--target-processes", "application-only"]
    command = [find_sanitizer(), *options, *pytest]
    print(" ".join(command), flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
