"""Writes the tables of the README's "Measured" section from the records in this folder.

python benchmarks/summary.py          write them
python benchmarks/summary.py --check  fail if the README does not show the records as they are
"""

import json
import sys
from pathlib import Path
from typing import Any

from litellama.bench import report

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- measured: written by benchmarks/summary.py -->\n", "<!-- end of measured -->"


def main() -> int:
    """Write or check the section; the exit code."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = before + BEGIN + summary() + END + after
    if "--check" in sys.argv[1:]:
        if new != text:
            print("README.md does not show the records: run python benchmarks/summary.py")
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


def summary() -> str:
    """The tables, one for each record, in the order of the files' names."""
    parts = []
    for path in sorted(HERE.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if path.name.startswith("kernels_"):
            table = kernel_table
            parts.append(f"\n![{report.in_words(record)}](images/{path.stem}.svg)\n")
        else:
            table = engine_table
        source = f"[{path.name}]({HERE.name}/{path.name}), {record['date']}, {software(record)}"
        parts.append(f"\n{table(record)}\n`{record['command']}`: {source}.\n\n")
    return "".join(parts)


def software(record: dict[str, Any]) -> str:
    """The versions that matter for speed."""
    return ", ".join(f"{name} {record['versions'][name]}" for name in ("torch", "triton"))


def kernel_table(record: dict[str, Any]) -> str:
    """A table for each group of kernels: ours, the peers or the best of many, and the limit."""
    parts = [
        f"**Kernels on one {record['gpu']}**: medians, cold L2 cache; × is litellama's rate over "
        "that of the quickest peer. Of the memory-bound kernels only the cases of 256 MB and more "
        "are shown; the record has the small ones too.\n"
    ]
    for name, group in report.grouped(report.headline(report.lines(record))).items():
        headings = report.headings(group)
        limit = report.limit_in_words(record, group[0].unit)
        parts += [
            f"\n| {name}, {group[0].unit} ({limit}) | {' | '.join(headings)} |",
            f"|---|{'---:|' * len(headings)}",
        ]
        for line in group:
            cells = " | ".join(report.cells(line, headings))
            parts.append(f"| `{line.kernel}` {line.case} | {cells} |")
    return "\n".join(parts) + "\n"


def engine_table(record: dict[str, Any]) -> str:
    """Both engines, and how many times faster ours is."""
    work = record["work"]
    where = record.get("gpu") or f"{record['threads']} threads of {record['cpu']}"
    tokens = record["tokens"]
    lines = [
        f"**{record['model']} in {record['dtype']}**, batch {work['batch']}, "
        f"{work['prompt_tokens']} prompt and {work['new_tokens']} new tokens, {where}; medians of "
        f"{work['repeats']}. Greedy tokens: {tokens['same']} sequences the same, {tokens['tie']} "
        f"parted at a tie, {tokens['different']} different.\n",
        "| engine | first token | decode step | tokens/s | litellama is |",
        "|---|---:|---:|---:|---:|",
    ]
    ratios = record["times_faster_litellama"]
    for name, peer in record["peers"].items():
        ratio = f"{ratios[name]['decode']:.2f}× as fast" if name in ratios else ""
        lines.append(
            f"| {name} | {peer['first_token_ms']:.0f} ms | {peer['ms_per_token']:.2f} ms | "
            f"{peer['decode_tokens_per_s']:.1f} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
