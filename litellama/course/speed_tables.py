"""Lesson 17's tables: what records say, in lines of text; each says so where there is no record."""

import statistics
from collections.abc import Sequence

from litellama.bench import report
from litellama.course import speed
from litellama.course.speed import GB, OURS, TERA, Machine, Part, Record

# What a part of a step's time is, by its kind.
MEANING = {
    "limit": "the limit",
    "kernel": "kernels, measured by themselves",
    "stand-in": "kernels, measured at other sizes",
    "rest": "measured, less all above",
}


def where(record: Record) -> str:
    """The machine, the date and the work of an engine's record."""
    work = record["work"]
    place = record.get("gpu") or f"{speed.threads(record['threads'])} of {record['cpu']}"
    sizes = f"{work['batch']} × ({report.prompt_length(record)} + {work['new_tokens']}) tokens"
    return f"{speed.name_of(record)}, {record['dtype']}, {sizes}, {place}, {record['date']}"


def print_machines(machines: Sequence[Machine]) -> None:
    """Bandwidth, FLOP/s and the ridge of each."""
    for m in machines:
        print(
            f"{m.name}, {m.source}: {m.bandwidth / GB:,.0f} GB/s, {m.flops / TERA:,.2f} TFLOP/s, "
            f"ridge at {m.flops / m.bandwidth:,.0f} FLOP per byte"
        )


def print_ceilings(kernels: Record | None) -> None:
    """The copy, the fastest reading that was recorded, and the data sheets."""
    if kernels:
        print(f"{kernels['copy_bytes_per_s'] / GB:,.0f} GB/s: a copy on {kernels['gpu']}")
        if best := speed.best_read(kernels):
            print(f"{best[0] / GB:,.0f} GB/s: the fastest reading there ({best[1]})")
    for m in speed.DATA_SHEETS:
        print(f"{m.bandwidth / GB:,.0f} GB/s, {m.flops / TERA:,.0f} TFLOP/s: {m.name}, {m.source}")


def print_steps(found: Sequence[Record]) -> None:
    """A line for each engine of each record: time, share of the limit, and the pairs' ratios."""
    for record in found:
        print(where(record))
        least = 1e3 * speed.limit_of(record)
        print(f"  {'limit':22} {least:7.2f} ms, {speed.bandwidth_of(record) / GB:,.0f} GB/s")
        for name, peer in record["peers"].items():
            ms = peer["ms_per_token"]
            ratio = record[f"times_faster_{OURS}"].get(name)
            slower = f", {ratio['decode']:.2f} × litellama's time" if ratio else ""
            print(f"  {name:22} {ms:7.2f} ms, {least / ms:4.0%} of the limit's speed{slower}")
    if not found:
        print("No such step is recorded.")


def print_agreement(found: Sequence[Record]) -> None:
    """How many texts of litellama and each other engine are the same, and where others part."""
    for record in found:
        for name, count in record["tokens"].items():
            work = f"{speed.name_of(record)}, {record['dtype']}, batch {record['work']['batch']}"
            print(
                f"{work}, {name}: {count['same']} the same, {count['tie']} part at a tie, "
                f"{count['different']} elsewhere"
            )


def print_pairs(found: Sequence[Record]) -> None:
    """The ratios pair by pair, their mean and their median."""
    for record in found:
        for name, ratio in record[f"times_faster_{OURS}"].items():
            pairs = ratio["decode_pairs"]
            print(
                f"{speed.name_of(record)} and {name}: {', '.join(f'{x:.2f}' for x in pairs)}; "
                f"mean {statistics.mean(pairs):.2f}, median {statistics.median(pairs):.2f}"
            )
    if not found:
        print("No GPU is recorded.")


def print_account(parts: Sequence[Part], record: Record | None) -> None:
    """The waterfall's sums by kind, and how far the repetitions of the measured step spread."""
    if not parts or record is None:
        print("No step can be taken apart.")
        return
    peer = record["peers"][OURS]
    measured = peer["ms_per_token"] / 1e3
    for kind, meaning in MEANING.items():
        seconds = sum(part.seconds for part in parts if part.kind == kind)
        print(f"{meaning:33} {1e6 * seconds:+7,.0f} µs  {seconds / measured:+5.0%}")
    steps = [1e6 * repetition["step_s"] for repetition in peer["repetitions"]]
    print(
        f"measured, median of {len(steps)}: {1e6 * measured:,.0f} µs; from {min(steps):,.0f} to "
        f"{max(steps):,.0f}"
    )


def print_matrices(kernels: Record | None) -> None:
    """Each recorded matrix times one row, the smallest first: what it takes beyond its bytes."""
    if kernels is None:
        print("No kernels are recorded.")
        return
    copy = kernels["copy_bytes_per_s"]
    for row in sorted(speed.ours(kernels, "matvec"), key=lambda row: row["bytes"]):
        over = row["median_us"] - row["bytes"] / copy * 1e6
        print(
            f"{row['case']:35} {row['bytes'] / 1e6:4.0f} MB {row['median_us']:6.1f} µs, "
            f"{over:+5.1f} over its bytes, {row['fraction_of_copy']:4.0%} of a copy"
        )


def print_losses(kernels: Record | None) -> None:
    """Where somebody else's kernel is faster by more than 5%, the worst first."""
    found = speed.losses(kernels) if kernels else []
    for line in found:
        name, rate = line.best_peer or ("", 0.0)
        mine = line.rates[OURS]
        print(
            f"{line.kernel:22} {line.case:24} {line.times_faster:.2f} × {name} "
            f"({mine:,.0f} against {rate:,.0f} {line.unit})"
        )
    if not found:
        print("Nothing recorded is slower, or nothing is recorded.")


def print_queues(kernels: Record | None) -> None:
    """Each recorded queue's time: its least bytes, its prompts' arithmetic, and the rest."""
    found = speed.engines("queue") if kernels else []
    for record in found:
        assert kernels
        parts = speed.queue_account(record, kernels["matmul_flop_per_s"])
        print(
            f"{record['work']['requests']} requests, {speed.name_of(record)}, {record['gpu']}, "
            f"{record['date']}: {record['tokens_per_s']:,.0f} tokens/s"
        )
        for peer, rates in record.get("peers", {}).items():
            print(f"  {peer} on the same requests: {rates['tokens_per_s']:,.0f} tokens/s")
        for name in ("reading", "prompts", "rest", "total"):
            share, each = parts[name] / parts["total"], 1e3 * parts[name] / parts["steps"]
            print(f"  {name:8} {parts[name]:6.2f} s, {each:5.2f} ms a step, {share:4.0%}")
    if not found:
        print("No queue is recorded.")


def print_prefixes() -> None:
    """How much sooner first tokens come where a prefix is shared, and how much they could."""
    found = speed.engines("prefix")
    for record in found:
        work, gain = record["work"], record["times_faster"]
        cached = statistics.median(r["fraction_cached"] for r in record["repetitions"])
        print(
            f"{speed.name_of(record)}, {record['gpu']}, {record['date']}: {work['requests']} "
            f"requests, {work['prefix_tokens']:,} tokens in common, {work['own_tokens']} their own"
        )
        print(
            f"  in the cache {gain['cached']:.1f} × sooner, by tokens alone "
            f"{1 / (1 - cached):.1f}; not cached before {gain['together']:.1f} ×; one "
            f"request {gain['alone']:.1f} ×"
        )
    if not found:
        print("No shared prefix is recorded.")
