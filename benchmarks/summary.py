"""Writes what the records here say: in short into the README, in full into benchmarks/README.md.

python benchmarks/summary.py          write both
python benchmarks/summary.py --check  fail if one of them does not show the records as they are
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from litellama.bench import report

HERE = Path(__file__).parent
ROOT = HERE.parent
ELSEWHERE = ("launches", "notebooks")  # lesson 15 draws the one; the other is no measurement
README, FULL, IMAGES = ROOT / "README.md", HERE / "README.md", ROOT / "images"
BEGIN, END = "<!-- measured: written by benchmarks/summary.py -->\n", "<!-- end of measured -->"
TITLE = """\
# Measured

Written by `summary.py` from the records beside it. Each record holds the machine, the versions, the
command that repeats it, and every repetition. Times of different records are from different minutes
and perhaps machines: compare within one.
"""


def main() -> int:
    """Write or check both; the exit code."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    wanted = {
        README: before + BEGIN + headlines() + END + rest.split(END)[1],
        FULL: TITLE + "".join(tables()),
    }
    stale = [
        path
        for path, new in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != new
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            name = path.relative_to(ROOT)
            print(f"{name} does not show the records: run python benchmarks/summary.py")
        return int(bool(stale))
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


def records() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every measurement, in the order of the files' names."""
    for path in sorted(HERE.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("kind") not in ELSEWHERE:
            yield path, record


def headlines() -> str:
    """Each chart once, and between them a line for each record of the engine."""
    charts = dict.fromkeys("_".join(path.stem.split("_")[:2]) + ".svg" for path, _ in records())
    parts = [
        f"\n![{alt_text(IMAGES / chart)}]({IMAGES.name}/{chart})\n"
        for chart in charts
        if (IMAGES / chart).exists()
    ]
    lines = [
        "\n| the engine | on | litellama | of the limit | beside |\n|---|---|---:|---:|---|\n",
        *(headline(record) for _, record in records() if record.get("kind") in HEADLINES),
    ]
    return "".join(lines + parts) + "\n"


def headline(record: dict[str, Any]) -> str:
    """A row: the work, the machine, tokens per second of decoding, and who is how much slower."""
    what, rate, beside = HEADLINES[record["kind"]](record)
    return f"| {what} | {report.machine_of(record)} | {rate} | {beside} |\n"


def generate_headline(record: dict[str, Any]) -> tuple[str, str, str]:
    """Of a batch of equal prompts."""
    ours = record["peers"]["litellama"]
    rate = f"{ours['decode_tokens_per_s']:,.0f} tokens/s | {ours['fraction_of_limit']:.0%}"
    other = "bfloat16 " if record["dtype"] == "int8" else ""
    beside = [
        f"{ratio['decode']:.2f}× {other}{name}"
        for name, ratio in record["times_faster_litellama"].items()
    ]
    return report.engine_label(record), rate, ", ".join(beside)


def queue_headline(record: dict[str, Any]) -> tuple[str, str, str]:
    """Of a queue of unequal requests."""
    rate = f"{record['tokens_per_s']:,.0f} tokens/s | {record['fraction_of_limit']:.0%}"
    beside = [
        f"{record['tokens_per_s'] / peer['tokens_per_s']:.2f}× {name}"
        for name, peer in record.get("peers", {}).items()
    ]
    return f"{report.engine_label(record)} prompt and new tokens", rate, ", ".join(beside)


def prefix_headline(record: dict[str, Any]) -> tuple[str, str, str]:
    """Of requests that share a prefix."""
    work, faster = record["work"], record["times_faster"]
    model = record["model"].removeprefix("random:")
    what = f"{model}, {work['requests']} sharing {work['prefix_tokens']} tokens: first token"
    return what, f"{1e3 * record['cached_s']:.0f} ms | ", f"{faster['cached']:.1f}× without reuse"


def tables() -> Iterator[str]:
    """A table for each record, and where it comes from."""
    for path, record in records():
        table = TABLES[record.get("kind", "kernels")](record)
        source = f"[{path.name}]({path.name}), {record['date']}, {software(record)}"
        yield f"\n{table}\n`{record['command']}`: {source}.{updates(record)}\n"


def updates(record: dict[str, Any]) -> str:
    """Which cases of a record are of a later run."""
    return "".join(
        f" Measured again on {update['date']} with `{update['command']}`: "
        f"{', '.join(update['cases'])}."
        for update in record.get("updates", [])
    )


def alt_text(chart: Path) -> str:
    """What the chart says of itself."""
    return ElementTree.parse(chart).getroot().attrib["aria-label"]


def software(record: dict[str, Any]) -> str:
    """The versions that matter for speed."""
    return ", ".join(f"{name} {record['versions'][name]}" for name in ("torch", "triton"))


def kernel_table(record: dict[str, Any]) -> str:
    """A table for each group of kernels: ours, the peers or the best of many, and the limit."""
    tables = []
    for name, group in report.grouped(report.headline(report.lines(record))).items():
        headings = report.headings(group)
        limit = report.limit_in_words(record, group[0].unit)
        lines = [
            f"| {name}, {group[0].unit} ({limit}) | {' | '.join(headings)} |",
            f"|---|{'---:|' * len(headings)}",
        ]
        for line in group:
            cells = " | ".join(report.cells(line, headings))
            lines.append(f"| `{line.kernel}` {line.case} | {cells} |")
        tables.append("\n".join(lines) + "\n")
    return (
        f"**Kernels on one {record['gpu']}**: medians, cold L2 cache; × is litellama's rate over "
        "that of the quickest peer. Of the memory-bound kernels only the cases of 256 MB and more "
        "are shown; the record has the small ones too.\n\n"
    ) + "\n".join(tables)


def engine_table(record: dict[str, Any]) -> str:
    """The engines, how near to the limit they are, and how many times faster ours is."""
    work, peers = record["work"], record["peers"]
    beside = " beside bfloat16" if record["dtype"] == "int8" else ""
    has_memory = any("peak_memory_bytes" in peer for peer in peers.values())
    headings = ["engine", "first token", "decode step", "tokens/s", "of limit", "litellama is"]
    headings += ["peak memory"] * has_memory
    lines = [
        f"**{record['model']} in {record['dtype']}{beside}**, batch {work['batch']}, "
        f"{report.prompt_length(record)} prompt and {work['new_tokens']} new tokens, "
        f"{report.machine_of(record)}; medians of {work['repeats']}.{token_counts(record)}\n",
        f"| {' | '.join(headings)} |",
        f"|---|{'---:|' * (len(headings) - 1)}",
    ]
    ratios = record["times_faster_litellama"]
    for name, peer in peers.items():
        cells = [
            name,
            f"{peer['first_token_ms']:.0f} ms",
            f"{peer['ms_per_token']:.2f} ms",
            f"{peer['decode_tokens_per_s']:,.1f}",
            f"{peer['fraction_of_limit']:.0%}",
            f"{ratios[name]['decode']:.2f}× as fast" if name in ratios else "",
        ]
        if has_memory:
            cells.append(f"{peer['peak_memory_bytes'] / 1e9:.1f} GB")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def token_counts(record: dict[str, Any]) -> str:
    """How many greedy sequences came out the same as each peer's."""
    return "".join(
        f" Greedy texts beside {name}: {count['same']} the same, {count['tie']} parted at a tie, "
        f"{count['different']} different."
        for name, count in record["tokens"].items()
    )


def queue_table(record: dict[str, Any]) -> str:
    """Output tokens per second of a queue of requests."""
    work, first = record["work"], record["repetitions"][0]
    memory = record.get("peak_memory_bytes")
    return (
        f"**{record['model']} in {record['dtype']}**, {work['requests']} requests of "
        f"{work['shortest']} to {work['longest']} prompt and as many new tokens, at most "
        f"{work['max_num_seqs']} at once, {report.machine_of(record)}: "
        f"**{record['tokens_per_s']:,.0f} output tokens/s**, {record['fraction_of_limit']:.0%} of "
        f"the limit, in {first['steps']} steps"
        + (f", {memory / 1e9:.1f} GB at the peak" if memory else "")
        + "."
        + "".join(
            f" {name} on the same requests: {peer['tokens_per_s']:,.0f}."
            for name, peer in record.get("peers", {}).items()
        )
        + "\n"
    )


def prefix_table(record: dict[str, Any]) -> str:
    """Time to the first token with and without reuse of a shared prefix."""
    work, times = record["work"], record["times_faster"]

    def ms(key: str) -> str:
        return f"{1e3 * record[key]:.1f} ms"

    return (
        f"**{record['model']} in {record['dtype']}**, {work['requests']} requests that share "
        f"{work['prefix_tokens']} tokens and have {work['own_tokens']} of their own, "
        f"{report.machine_of(record)}: time until the last has its first token.\n\n"
        f"| the prefix is | one request | {work['requests']} at once | quicker by |\n"
        "|---|---:|---:|---:|\n"
        f"| computed by each | {ms('without_alone_s')} | {ms('without_s')} |  |\n"
        f"| shared among them |  | {ms('together_s')} | {times['together']:.1f}× |\n"
        f"| in the cache | {ms('cached_alone_s')} | {ms('cached_s')} | {times['cached']:.1f}× |\n"
    )


TABLES = {
    "kernels": kernel_table,
    "generate": engine_table,
    "queue": queue_table,
    "prefix": prefix_table,
}

HEADLINES = {
    "generate": generate_headline,
    "queue": queue_headline,
    "prefix": prefix_headline,
}

if __name__ == "__main__":
    sys.exit(main())
