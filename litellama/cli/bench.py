"""``litellama bench``: the engine against transformers; and its commands queue, prefix, kernels."""

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
    from litellama.bench.serving import SharedPrefix

app = typer.Typer(invoke_without_command=True)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the record, repetitions included.")
]


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A name, a folder, a .gguf file, or random:PRESET, as random:llama-3.2-1b.",
    ),
]


@app.callback()
def bench(
    ctx: typer.Context,
    model: Model = "smollm2",
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of each prompt, beside those of a picture.")
    ] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens made after each prompt.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed repetitions of each engine.")] = 3,
    against: Annotated[
        list[str] | None,
        typer.Option(help="eager or compiled transformers, or none; repeat for several."),
    ] = None,
    output: Output = None,
) -> None:
    """Compare the engine with transformers: equal prompts, equal weights, equal tokens."""
    if ctx.invoked_subcommand:
        return
    from litellama.bench import engine

    _check_writable(output)
    work = engine.Work(batch, prompt_tokens, new_tokens, repeats)
    chosen = None if not against else [name for name in against if name != "none"]
    with stderr().status("starting") as status:
        record = engine.run(model, work, device, dtype, chosen, progress=_progress(status))
    _print_engine(record, work)
    _write(record, output, tell=True)
    different = [name for name, count in record["tokens"].items() if count["different"]]
    if record["dtype"] == "float32" and different:
        fail(f"different tokens in float32 from {', '.join(different)}: see the counts above")


@app.command()
def queue(
    model: Model = "smollm2",
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    requests: Annotated[int, typer.Option(help="Requests, all there at the start.")] = 256,
    shortest: Annotated[int, typer.Option(help="Fewest tokens of a prompt or an answer.")] = 100,
    longest: Annotated[int, typer.Option(help="Most tokens of a prompt or an answer.")] = 1024,
    max_num_seqs: Annotated[int, typer.Option(help="Most requests in one step.")] = 256,
    max_step_tokens: Annotated[int, typer.Option(help="Most tokens in one step.")] = 16384,
    repeats: Annotated[int, typer.Option(help="Timed repetitions.")] = 2,
    output: Output = None,
) -> None:
    """Serve a queue of requests of unequal lengths, as nano-vllm's benchmark does."""
    from litellama.bench import serving

    _check_writable(output)
    work = serving.Queue(requests, shortest, longest, max_num_seqs, max_step_tokens, repeats)
    with stderr().status("starting") as status:
        record = serving.run_queue(model, work, device, dtype, progress=_progress(status))
    memory = record.get("peak_memory_bytes")
    stdout().print(
        f"{record['model']}, {record['dtype']}, {_where(record)}: {requests} requests of "
        f"{shortest} to {longest} prompt and as many new tokens, {max_num_seqs} at once\n"
        f"{record['tokens_per_s']:,.0f} output tokens/s, {record['fraction_of_limit']:.0%} of the "
        f"limit (weights once a step and the keys read, at {_bandwidth(record) / 1e9:.0f} GB/s)"
        + (f", {memory / 1e9:.1f} GB at the peak" if memory else ""),
        soft_wrap=True,
    )
    _write(record, output, tell=True)


@app.command()
def prefix(
    model: Model = "smollm2",
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    requests: Annotated[int, typer.Option(help="Requests that arrive together.")] = 64,
    prefix_tokens: Annotated[int, typer.Option(help="Tokens that all of them share.")] = 2000,
    own_tokens: Annotated[int, typer.Option(help="Tokens of each one's own.")] = 32,
    repeats: Annotated[int, typer.Option(help="Timed repetitions.")] = 3,
    output: Output = None,
) -> None:
    """Time to the first token of requests with a shared prefix, with and without its reuse."""
    from litellama.bench import serving

    _check_writable(output)
    work = serving.SharedPrefix(requests, prefix_tokens, own_tokens, repeats)
    with stderr().status("starting") as status:
        record = serving.run_prefix(model, work, device, dtype, progress=_progress(status))
    _print_prefix(record, work)
    _write(record, output, tell=True)


@app.command()
def kernels(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which ones, as flash_decoding; default: all.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only cases with this in their name, as T4096.")] = "",
    dtype: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed repetitions.")] = 30,
    output: Output = None,
    update: Annotated[
        Path | None,
        typer.Option(help="A record of the same GPU: put these cases in place of its own."),
    ] = None,
) -> None:
    """Time each kernel on the GPU against its peers, in turns.

    Peers: torch, eager and compiled; cuBLAS; scaled_dot_product_attention;
    Liger-Kernel, where it is installed (pip install liger-kernel).
    The record is written after each case: a run that is stopped keeps it.
    """
    from litellama.bench import kernels as bench_kernels
    from litellama.bench import machine

    _check_writable(output)
    older = _read_kernels(update) if update else None
    if older:
        report.check_same_machine(older, machine.describe(bench_kernels.the_gpu()))
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
    _write(record, output, tell=True)
    if older:
        _write(report.updated(older, record), update, tell=True)
    _report_what_is_missing(record)


def _read_kernels(path: Path) -> dict[str, Any]:
    """A record of kernels, to be updated; what is no such file is refused before any measuring."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record | {"results": list(record["results"]), "versions": dict(record["versions"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path} is no record of litellama bench kernels: {error!r}")


def _progress(status: Any) -> Any:
    """Show each step: in place on a terminal, as a line of its own in a log."""
    return status.update if stderr().is_terminal else notice


def _check_writable(output: Path | None) -> None:
    """Refuse a place that cannot be written before minutes of measuring, not after."""
    if output is not None and not output.absolute().parent.is_dir():
        fail(f"cannot write {output}: there is no folder {output.absolute().parent}")


def _write(record: dict[str, Any], output: Path | None, tell: bool = False) -> None:
    if output is None:
        return
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", _on_one_line, text)
    output.write_text(text + "\n", encoding="utf-8")
    if tell:
        notice(f"wrote {output}")


def _on_one_line(innermost_list: re.Match[str]) -> str:
    return f"[{' '.join(innermost_list[1].split())}]"


def _where(record: dict[str, Any]) -> str:
    return record.get("gpu") or f"{record['cpu']}, {record['threads']} threads"


def _bandwidth(record: dict[str, Any]) -> float:
    return max(record["copy_bytes_per_s"], record["read_bytes_per_s"])


def _print_engine(record: dict[str, Any], work: "Work") -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{record['model']}, {record['dtype']}, batch {work.batch}, "
        f"{report.prompt_length(record)} + {work.new_tokens} tokens, {_where(record)}",
        caption="medians; limit: the weights and the keys read once a step at the memory's "
        f"{_bandwidth(record) / 1e9:.1f} GB/s",
    )
    table.add_column("engine")
    headings = ["first\ntoken", "step", "tokens/s", "of\nlimit", "litellama is"]
    has_memory = any("peak_memory_bytes" in peer for peer in record["peers"].values())
    for heading in headings + ["peak\nmemory"] * has_memory:
        table.add_column(heading, justify="right")
    ratios = record["times_faster_litellama"]
    for name, peer in record["peers"].items():
        cells = [
            name,
            f"{peer['first_token_ms']:.0f} ms",
            f"{peer['ms_per_token']:.2f} ms",
            f"{peer['decode_tokens_per_s']:.1f}",
            f"{peer['fraction_of_limit']:.0%}",
            f"{ratios[name]['decode']:.2f}× as fast" if name in ratios else "",
        ]
        if has_memory:
            cells.append(f"{peer['peak_memory_bytes'] / 1e9:.1f} GB")
        table.add_row(*cells)
    stdout().print(table)
    for name, tokens in record["tokens"].items():
        stdout().print(
            f"greedy sequences beside {name}: {tokens['same']} the same, {tokens['tie']} parted at "
            f"a tie, {tokens['different']} different",
            soft_wrap=True,
        )


def _print_prefix(record: dict[str, Any], work: "SharedPrefix") -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{record['model']}, {record['dtype']}: {work.prefix_tokens} shared tokens and "
        f"{work.own_tokens} more, {_where(record)}",
        caption="medians of the time until the last request has its first token",
    )
    table.add_column("the prefix is")
    for heading in ("one request", f"{work.requests} at once", "quicker by"):
        table.add_column(heading, justify="right")
    times = record["times_faster"]
    rows = [
        ("computed by each", record["without_alone_s"], record["without_s"], ""),
        ("shared among them", None, record["together_s"], f"{times['together']:.1f}×"),
        ("in the cache", record["cached_alone_s"], record["cached_s"], f"{times['cached']:.1f}×"),
    ]
    for name, alone, together, ratio in rows:
        one = "" if alone is None else f"{1e3 * alone:.1f} ms"
        table.add_row(name, one, f"{1e3 * together:.1f} ms", ratio)
    stdout().print(table)


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
