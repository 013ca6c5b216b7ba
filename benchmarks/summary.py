"""Writes the tables of the README's "Measured" section from the records in this folder.

python benchmarks/summary.py          write them
python benchmarks/summary.py --check  fail if the README does not show the records as they are
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- measured: written by benchmarks/summary.py -->\n", "<!-- end of measured -->"
# One shape of each kernel: large enough for memory to be the limit.
TOKENS = 16384


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
        table = kernel_table if path.name.startswith("kernels_") else engine_table
        source = f"[{path.name}]({HERE.name}/{path.name}), {record['date']}, {software(record)}"
        parts.append(f"\n{table(record)}\n`{record['command']}`: {source}.\n\n")
    return "".join(parts)


def software(record: dict[str, Any]) -> str:
    """The versions that matter for speed."""
    return ", ".join(f"{name} {record['versions'][name]}" for name in ("torch", "triton"))


def kernel_table(record: dict[str, Any]) -> str:
    """GB/s of each kernel at its largest shape, ours beside torch's."""
    rows = [row for row in record["results"] if row["shape"][0][0] == TOKENS]
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    copy = record["copy_bytes_per_s"] / 1e9
    lines = [
        f"**Kernels on one {record['gpu']}**, GB/s (bytes that the formula must move over median "
        f"time, cold L2 cache). A copy: {copy:.0f} GB/s.\n",
        f"| kernel | shape | dtype | {' | '.join(peers)} | litellama, of a copy |",
        f"|---|---|---|{'---:|' * len(peers)}---:|",
    ]
    for name in dict.fromkeys(row["kernel"] for row in rows):
        mine = {row["peer"]: row for row in rows if row["kernel"] == name}
        first = mine["litellama"]
        shape = "×".join(str(size) for size in first["shape"][0])
        rates = " | ".join(f"{mine[peer]['gb_per_s']:.0f}" for peer in peers)
        share = f"{first['fraction_of_copy']:.0%}"
        lines.append(f"| `{name}` | {shape} | {first['dtype']} | {rates} | {share} |")
    return "\n".join(lines) + "\n"


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
