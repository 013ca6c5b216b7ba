"""``litellama bench`` (the engine against transformers) and ``litellama bench kernels``."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from litellama.bench import report
from litellama.cli import options
from litellama.cli.console import complain, fail, notice, stderr, stdout

if TYPE_CHECKING:
    from litellama.bench.engine import Work

app = typer.Typer(invoke_without_command=True)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the record, repetitions included.")
]


@app.callback()
def bench(
    ctx: typer.Context,
    model: options.Model = "smollm2",
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens made after each prompt.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed repetitions of each engine.")] = 3,
    output: Output = None,
) -> None:
    """Compare the engine with transformers, or (bench kernels) each kernel with torch."""
    if ctx.invoked_subcommand:
        return
    from litellama.bench import engine

    _check_writable(output)
    work = engine.Work(batch, prompt_tokens, new_tokens, repeats)
    with stderr().status("starting") as status:
        record = engine.run(model, work, device, dtype, progress=_progress(status))
    _print_engine(record, work)
    _write(record, output)
    if output is not None:
        notice(f"wrote {output}")
    if record["dtype"] == "float32" and record["tokens"]["different"]:
        fail("the two engines made different tokens in float32: see the counts above")


@app.command()
def kernels(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which ones, as flash_decoding; default: all.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only cases with this in their name, as T4096.")] = "",
    dtype: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed repetitions.")] = 30,
    output: Output = None,
) -> None:
    """Time each kernel on the GPU against its peers, in turns.

    The peers are torch, eager and compiled, cuBLAS, Liger-Kernel (pip install liger-kernel) and
    the backends of scaled_dot_product_attention. The record is written after each kernel, so that
    a run that is stopped leaves what it has measured.
    """
    from litellama.bench import kernels as bench_kernels

    _check_writable(output)
    with stderr().status("starting") as status:
        record = bench_kernels.run(
            names,
            only,
            tuple(dtype or ("bfloat16",)),
            repeats,
            progress=_progress(status),
            save=lambda so_far: _write(so_far, output),
        )
    _print_kernels(record)
    if output is not None:
        notice(f"wrote {output}")
    _report_what_is_missing(record)


def _progress(status: Any) -> Any:
    """Show each step: in place on a terminal, as a line of its own in a log."""
    return status.update if stderr().is_terminal else notice


def _check_writable(output: Path | None) -> None:
    """Refuse a place that cannot be written before minutes of measuring, not after."""
    if output is not None and not output.absolute().parent.is_dir():
        fail(f"cannot write {output}: there is no folder {output.absolute().parent}")


def _write(record: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        text = json.dumps(record, indent=1, ensure_ascii=False)
        text = re.sub(r"\[\s+([^][{}]*?)\s+\]", _on_one_line, text)
        output.write_text(text + "\n", encoding="utf-8")


def _on_one_line(innermost_list: re.Match[str]) -> str:
    return f"[{' '.join(innermost_list[1].split())}]"


def _print_engine(record: dict[str, Any], work: "Work") -> None:
    where = record.get("gpu") or f"{record['cpu']}, {record['threads']} threads"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{record['model']}, {record['dtype']}, batch {work.batch}, {work.prompt_tokens} + "
        f"{work.new_tokens} tokens, {where}",
        caption="medians; limit: the weights read once a step at the memory's "
        f"{max(record['copy_bytes_per_s'], record['read_bytes_per_s']) / 1e9:.1f} GB/s",
    )
    table.add_column("engine", no_wrap=True)
    for heading in ("first token", "step", "tokens/s", "of limit", "litellama is"):
        table.add_column(heading, justify="right")
    ratios = record["times_faster_litellama"]
    for name, peer in record["peers"].items():
        table.add_row(
            name,
            f"{peer['first_token_ms']:.0f} ms",
            f"{peer['ms_per_token']:.2f} ms",
            f"{peer['decode_tokens_per_s']:.1f}",
            f"{peer['fraction_of_limit']:.0%}",
            f"{ratios[name]['decode']:.2f}× as fast" if name in ratios else "",
        )
    stdout().print(table)
    tokens = record["tokens"]
    stdout().print(
        f"greedy sequences: {tokens['same']} the same, {tokens['tie']} parted at a tie, "
        f"{tokens['different']} different"
    )


def _print_kernels(record: dict[str, Any]) -> None:
    """A table for each group of kernels: the peers side by side, or the best one of many."""
    for name, group in report.grouped(report.lines(record)).items():
        headings = report.headings(group)
        table = Table(
            box=None,
            padding=(0, 1, 0, 0),  # to fit 80 columns
            title=f"{name}, {group[0].unit} on {record['gpu']}",
            caption=f"medians, cold L2 cache; {report.limit_in_words(record, group[0].unit)}",
        )
        table.add_column("", no_wrap=True)
        for heading in headings:
            table.add_column(_broken(heading), justify="right", no_wrap=True)
        for line in group:
            table.add_row(report.label(line, group), *report.cells(line, headings))
        stdout().print(table)
    stdout().print("×: litellama's rate over that of the quickest peer")


def _broken(heading: str) -> str:
    """A heading in short lines."""
    return heading.replace(", ", "\n").replace(" ", "\n").replace(".", ".\n").replace("-", "-\n")


def _report_what_is_missing(record: dict[str, Any]) -> None:
    """Say which peers are not installed and which failed; exit 1 if litellama itself did."""
    for name in record["absent"]:
        notice(f"not compared with {name}: it is not installed (pip install {name.lower()})")
    ours = 0
    for failure in record["failed"]:
        mine = failure["peer"] == report.OURS
        ours += mine
        words = " ".join(failure[key] for key in ("kernel", "case", "dtype", "peer"))
        (complain if mine else notice)(f"could not be measured: {words}: {failure['error']}")
    if ours:
        fail(f"{ours} of litellama's own cases could not be measured: see above")
