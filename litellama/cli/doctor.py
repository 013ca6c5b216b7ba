"""``litellama doctor``: what is installed, whether the kernels are right, what to do if not."""

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from litellama.cli.console import stdout

if TYPE_CHECKING:
    import torch

MODEL_BYTES = 2_000_000_000  # the download and the float32 copy made from it, with room to spare
STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report.  ``status`` is ok, note (works, but know this) or broken."""

    status: str
    subject: str
    detail: str
    advice: str = ""


def doctor() -> None:
    """Check the installation: versions, devices, kernels, the default model, disk space."""
    console = stdout()
    broken = 0
    for finding in examine():
        broken += finding.status == "broken"
        line = Text.assemble(
            (f"{finding.status:<7}", STYLES[finding.status]),
            f"{finding.subject:<9} ",
            finding.detail,
        )
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"{'':<17}→ {finding.advice}"), soft_wrap=True)
    if broken:
        console.print(Text(f"{broken} broken: see the lines above.", style="bold red"))
        raise typer.Exit(1)
    console.print(Text("Everything needed works."))


def examine() -> Iterator[Finding]:
    """Every finding, in order; each is made when it is asked for, so that progress shows."""
    import torch

    from litellama.bench.machine import versions

    yield Finding(
        "ok", "versions", ", ".join(f"{name} {value}" for name, value in versions().items())
    )
    yield Finding("ok", "python", f"{sys.executable} on {platform.platform()}")
    yield from _devices()
    has_gpu = torch.cuda.is_available()
    yield from _triton(torch.device("cuda" if has_gpu else "cpu"))
    yield from _model()


def _devices() -> Iterator[Finding]:
    import torch

    from litellama.bench.machine import cpu_name

    yield Finding("ok", "cpu", f"{cpu_name()}, torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "torch sees none; models run on the CPU, lessons as well")
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        build = "ROCm" if torch.version.hip else "compute capability"
        kind = gpu.gcnArchName if torch.version.hip else f"{gpu.major}.{gpu.minor}"
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding("ok", "gpu", f"cuda:{index} {gpu.name}, {build} {kind}, {memory}")


def _triton(device: "torch.device") -> Iterator[Finding]:
    from litellama.cli import canary
    from litellama.kernels import backend

    if not backend.HAS_TRITON:
        yield Finding(
            "note", "triton", "is not installed: kernels run as their torch references",
            "Triton exists for Linux and WSL2; lessons that build kernels need it",
        )  # fmt: skip
        return
    mode = "interprets kernels on the CPU (slow, for lessons and tests)"
    if not backend.interpreting():
        mode = "compiles kernels for the GPU"
    elif device.type == "cuda":
        mode += "; TRITON_INTERPRET is set although there is a GPU"
    yield Finding("ok", "triton", mode)
    verdicts = list(canary.run(device))
    wrong = [verdict for verdict in verdicts if verdict.problem]
    for verdict in wrong:
        yield Finding(
            "broken", "kernel", f"{verdict.kernel} in {verdict.dtype} {verdict.problem}",
            "install the tested versions: pip install -e '.[all]' -c constraints.txt",
        )  # fmt: skip
    if not wrong:
        names = ", ".join(dict.fromkeys(verdict.kernel for verdict in verdicts))
        yield Finding("ok", "kernels", f"{names}: right in float32, float16 and bfloat16")


def _model() -> Iterator[Finding]:
    from litellama.checkpoints import cache_dir

    home = Path(cache_dir())
    folder = home / "models" / "smollm2"
    present = (folder / "config.json").is_file()
    if present and not (folder / "model.safetensors").is_file():
        yield Finding(
            "broken", "model", f"{folder} has no model.safetensors",
            "remove that folder, then run: litellama pull smollm2",
        )  # fmt: skip
    elif present:
        yield Finding("ok", "model", f"smollm2 is in {folder}")
    else:
        yield Finding("note", "model", "smollm2 is not here yet", "run: litellama pull smollm2")
    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free for the cache {home}"
    if present or free >= MODEL_BYTES:
        yield Finding("ok", "disk", detail)
    else:
        yield Finding(
            "broken", "disk", detail,
            f"smollm2 needs {MODEL_BYTES / 1e9:.0f} GB: free some, or set LITELLAMA_HOME to a "
            "folder on another disk",
        )  # fmt: skip
