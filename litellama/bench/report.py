"""Records as lines to print or draw: what is ours, what is the limit, who is next."""

from dataclasses import dataclass
from typing import Any

from litellama.errors import RequestError

OURS = "litellama"
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int8": "int8"}
MOST_COLUMNS = 4  # peers side by side that a table of 80 columns has room for
# Bytes from which a case shows what a kernel reaches when nothing but the memory limits it.
LARGE = 256e6
# Kinds of engine records that say how fast tokens are made.
DECODING = ("generate", "queue")


@dataclass(frozen=True)
class Line:
    """One case in one dtype.

    unit: of the rates, "GB/s" or "TFLOP/s".  amount: bytes or FLOPs of the case.
    rates: peer -> rate, ours among them if it ran.
    fraction: of the limit, by litellama; None if it did not run.
    """

    group: str
    kernel: str
    case: str
    dtype: str
    unit: str
    amount: int
    rates: dict[str, float]
    fraction: float | None

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """The quickest other one and its rate."""
        others = [(name, rate) for name, rate in self.rates.items() if name != OURS]
        return max(others, key=lambda pair: pair[1], default=None)

    @property
    def times_faster(self) -> float | None:
        """litellama's rate over that of the quickest other one."""
        if OURS not in self.rates or self.best_peer is None:
            return None
        return self.rates[OURS] / self.best_peer[1]


def lines(record: dict[str, Any]) -> list[Line]:
    """One line for each case, in the record's order."""
    cases: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in record["results"]:
        key = tuple(row[name] for name in ("group", "kernel", "case", "dtype"))
        cases.setdefault(key, []).append(row)
    made = []
    for (group, kernel, case, dtype), rows in cases.items():
        compute = "tflop_per_s" in rows[0]
        rate = "tflop_per_s" if compute else "gb_per_s"
        share = "fraction_of_matmul" if compute else "fraction_of_copy"
        ours = next((row[share] for row in rows if row["peer"] == OURS), None)
        rates = {row["peer"]: row[rate] for row in rows}
        unit = "TFLOP/s" if compute else "GB/s"
        amount = rows[0]["flops" if compute else "bytes"]
        made.append(Line(group, kernel, case, dtype, unit, amount, rates, ours))
    return made


def check_same_machine(record: dict[str, Any], again: dict[str, Any]) -> None:
    """RequestError unless both are of one GPU and the same versions: one table, one machine."""
    mine, theirs = (
        f"{r['gpu']}, torch {r['versions']['torch']}, triton {r['versions']['triton']}"
        for r in (record, again)
    )
    if mine != theirs:
        raise RequestError(
            f"the record is of {mine}, what was measured now of {theirs}: write that to a file of "
            "its own (--output)"
        )


def updated(record: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """A record of kernels with the cases of a later one in place of its own, or after them.

    Each of the later rows keeps its date, and "updates" says how they were measured.
    """
    check_same_machine(record, again)
    results: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in record["results"]:
        results.setdefault(_case(row), []).append(row)
    measured: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in again["results"]:
        measured.setdefault(_case(row), []).append(row | {"date": again["date"]})
    results |= measured
    failed = [row for row in record["failed"] if _case(row) not in measured] + again["failed"]
    names = ("command", "date", "copy_bytes_per_s", "matmul_flop_per_s", "absent")
    update = {name: again[name] for name in names}
    update["cases"] = [f"{kernel} {case}" for kernel, case, _ in measured]
    return record | {
        "failed": failed,
        "updates": [*record.get("updates", []), update],
        "results": [row for rows in results.values() for row in rows],
    }


def _case(row: dict[str, Any]) -> tuple[str, ...]:
    return row["kernel"], row["case"], row["dtype"]


def grouped(made: list[Line]) -> dict[str, list[Line]]:
    """The lines of each group."""
    groups: dict[str, list[Line]] = {}
    for line in made:
        groups.setdefault(line.group, []).append(line)
    return groups


def headline(made: list[Line]) -> list[Line]:
    """What a summary shows: of the many sizes of the memory-bound kernels only the large ones."""
    return [line for line in made if line.group != "memory-bound" or line.amount >= LARGE]


def headings(group: list[Line]) -> list[str]:
    """The columns of a group's table: the peers side by side, or the best one of many."""
    peers = peers_of(group)
    if len(peers) <= MOST_COLUMNS:
        return [*peers, "of limit", "×"]
    return [OURS, "of limit", "best peer", "×"]


def cells(line: Line, columns: list[str]) -> list[str]:
    """A line's text for each of the columns that ``headings`` names; empty where it has none."""
    text = {peer: f"{rate:.0f}" for peer, rate in line.rates.items()}
    if line.fraction is not None:
        text["of limit"] = f"{line.fraction:.0%}"
    if line.best_peer:
        text["best peer"] = f"{line.best_peer[0]} {line.best_peer[1]:.0f}"
    if line.times_faster:
        text["×"] = f"{line.times_faster:.2f}"
    return [text.get(column, "") for column in columns]


def label(line: Line, group: list[Line]) -> str:
    """The case, with what tells it from the others of its group."""
    words = [line.case]
    if len({other.kernel for other in group}) > 1:
        words.insert(0, line.kernel)
    if len({other.dtype for other in group}) > 1:
        words.append(SHORT.get(line.dtype, line.dtype))
    return " ".join(words)


def peers_of(group: list[Line]) -> list[str]:
    """The peers that any line of the group has, litellama first, the others as they come."""
    names = dict.fromkeys(name for line in group for name in line.rates)
    return [OURS, *(name for name in names if name != OURS)]


def limit_of(record: dict[str, Any], unit: str) -> float:
    """The limit in that unit: the copy's GB/s, or the matrix product's TFLOP/s."""
    if unit == "GB/s":
        return record["copy_bytes_per_s"] / 1e9
    return record["matmul_flop_per_s"] / 1e12


def limit_in_words(record: dict[str, Any], unit: str) -> str:
    """As "a copy: 2937 GB/s"."""
    what = "a copy" if unit == "GB/s" else "a matrix product of 8192³"
    return f"{what}: {limit_of(record, unit):.0f} {unit}"


def in_words(record: dict[str, Any]) -> str:
    """The headline with its numbers, for who cannot see the chart."""
    said = []
    for line in headline(lines(record)):
        words = f"{line.kernel} {line.case}"
        if line.fraction is not None:
            words += f" {line.rates[OURS]:.0f} {line.unit}, {line.fraction:.0%}"
        else:
            words += " not measured"
        if line.best_peer:
            words += f", {line.best_peer[0]} {line.best_peer[1]:.0f}"
        said.append(words)
    return (
        f"Kernels on one {record['gpu']}: litellama's rate, its fraction of the limit, and the "
        f"quickest peer's rate. {'; '.join(said)}."
    )


def machine_of(record: dict[str, Any]) -> str:
    """Where it was measured: the GPU, or the threads of a CPU."""
    if "gpu" in record:
        return f"one {record['gpu']}"
    return f"{record['threads']} threads of {record['cpu']}"


def engine_label(record: dict[str, Any]) -> str:
    """What an engine was asked to do, as "llama-3.2-1b bf16, 12 × (25 + 1900)"."""
    work, model = record["work"], record["model"].removeprefix("random:")
    if record["kind"] == "queue":
        sizes = f"{work['requests']} of {work['shortest']}–{work['longest']}"
    else:
        sizes = f"{work['batch']} × ({prompt_length(record)} + {work['new_tokens']})"
    return f"{model} {SHORT[record['dtype']]}, {sizes}"


def prompt_length(record: dict[str, Any]) -> int:
    """Tokens of each prompt, those of its picture included."""
    return record["work"]["prompt_tokens"] + record.get("picture_tokens", 0)


def engine_rates(record: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(name, tokens per second of decoding, fraction of the limit) of each engine, ours first."""
    if record["kind"] == "queue":  # its peers, if any, are not transformers
        served = {OURS: record} | record.get("peers", {})
        return [(n, p["tokens_per_s"], p["fraction_of_limit"]) for n, p in served.items()]
    return [
        (name, peer["decode_tokens_per_s"], peer["fraction_of_limit"])
        for name, peer in record["peers"].items()
    ]
