"""Lesson 09's pictures: which multiprocessor reads which keys, and what decoding reaches."""

import functools
import heapq
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from litellama.course.figures import CARD, PALETTE, canvas, first_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MULTIPROCESSORS = 132  # of an H100
KV_HEADS = 8  # of the Llama models
BLOCK = 64  # keys that a program takes at a time
MOST_SPLITS = 64
CHATS = {  # keys of each sequence
    "1 of 8,192": (8192,),
    "8 of 4,096": (4096,) * 8,
    "64 of 2,048": (2048,) * 64,
    "8 mixed": (8192, 4096, 2048, 1024, 512, 256, 128, 64),
}
COLOURS = ("blue", "orange", "green", "vermilion", "sky", "grey")


class Work(NamedTuple):
    """One program: when and where it runs, in blocks of keys, and of which sequence and part."""

    multiprocessor: int
    start: int
    stop: int
    sequence: int
    split: int


def part_sizes(num_blocks: int, splits: int) -> list[int]:
    """The blocks of each part, as ``flash_decoding_kernel`` cuts them."""
    cuts = [num_blocks * split // splits for split in range(splits + 1)]
    return [stop - start for start, stop in itertools.pairwise(cuts)]


@functools.cache
def play(lengths: tuple[int, ...], splits: int) -> list[Work]:
    """Every program of a step, in the grid's order, each on the first multiprocessor to be free.

    One program a multiprocessor, and a block of keys takes each of them the same time: this shows
    how work is shared out, and is not a measurement.  Programs with no keys are left out.
    """
    free = [(0, number) for number in range(MULTIPROCESSORS)]
    sizes = [part_sizes(-(-length // BLOCK), splits) for length in lengths]
    works = []
    for split in range(splits):
        for sequence, of_sequence in enumerate(sizes):
            for _ in range(KV_HEADS if of_sequence[split] else 0):
                start, number = heapq.heappop(free)
                stop = start + of_sequence[split]
                heapq.heappush(free, (stop, number))
                works.append(Work(number, start, stop, sequence, split))
    return works


def finish(lengths: tuple[int, ...], splits: int) -> int:
    """When the last program is done, in blocks of keys."""
    return max(work.stop for work in play(lengths, splits))


def blocks_in_all(lengths: Sequence[int]) -> int:
    """Blocks of keys that a step reads, of all sequences and heads."""
    return KV_HEADS * sum(-(-length // BLOCK) for length in lengths)


def chosen(lengths: Sequence[int]) -> int:
    """What the package's rule takes for a GPU with one place a multiprocessor."""
    import importlib

    # The package has a function of the module's name in its place.
    decoding = importlib.import_module("litellama.kernels.flash_decoding")
    most = min(-(-max(lengths) // BLOCK), MOST_SPLITS)
    return decoding.choose_splits(len(lengths) * KV_HEADS, most, MULTIPROCESSORS)


def describe(chats: str, splits: int) -> str:
    """How many programs there are, when they are done, and how busy the GPU was."""
    lengths = CHATS[chats]
    works, end = play(lengths, splits), finish(lengths, splits)
    busy = blocks_in_all(lengths) / (MULTIPROCESSORS * end)
    working = len({work.multiprocessor for work in works})
    return (
        f"Chats: {chats}; parts: {splits}. {len(works):,} programs with keys on {working} of "
        f"{MULTIPROCESSORS} multiprocessors, done after {end} blocks; {busy:.0%} busy. "
        f"The rule takes {chosen(lengths)}."
    )


def draw(chats: str, splits: int) -> "Figure":
    """A step's programs on the multiprocessors, and how the end depends on the number of parts."""
    lengths = CHATS[chats]
    works, rule = play(lengths, splits), chosen(lengths)
    figure, (left, right) = canvas(7.8, 4.0, columns=2)
    left.get_gridspec().set_width_ratios([2.3, 1])
    unsplit = finish(lengths, 1)
    gap = 0.004 * unsplit  # so that one program is told from the next
    for shade in (0, 1):  # neighbouring parts in two shades
        mine = [work for work in works if work.split % 2 == shade]
        left.hlines(
            [work.multiprocessor for work in mine],
            [work.start for work in mine],
            [max(work.stop - gap, work.start + gap) for work in mine],
            colors=[PALETTE[COLOURS[work.sequence % len(COLOURS)]] for work in mine],
            linewidth=1.35,
            alpha=(1.0, 0.55)[shade],
        )
    left.set(xlim=(0, 1.03 * unsplit), ylim=(MULTIPROCESSORS, -1))
    left.set(xlabel=f"time, in blocks of {BLOCK} keys", ylabel="multiprocessor")
    left.set_yticks([0, 33, 66, 99, 131])
    counts = range(1, MOST_SPLITS + 1)
    ends = [finish(lengths, count) for count in counts]
    right.plot(counts, ends, color=PALETTE["grey"], linewidth=1.5)
    best = blocks_in_all(lengths) / MULTIPROCESSORS
    red, blue = PALETTE["vermilion"], PALETTE["blue"]
    right.axhline(best, color=red, linestyle="--", linewidth=1.2, label="shared evenly")
    diamond = {"color": CARD, "markeredgecolor": blue, "markersize": 9, "linestyle": "none"}
    right.plot(rule, ends[rule - 1], marker="D", label="the rule", **diamond)
    right.plot(splits, ends[splits - 1], "o", color=blue, markersize=6)
    right.set_xscale("log", base=2)
    right.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    right.set(xlabel="parts", ylim=(0, 1.08 * max(ends)))
    right.set_title("done after, in blocks", loc="left", fontsize=10)
    right.grid()
    right.legend(fontsize=8.5, facecolor=CARD, edgecolor="none", handlelength=1.4)
    words = describe(chats, splits).split(" The rule")[0].replace(" on ", " on\n", 1)
    figure.suptitle(words, x=0.02, ha="left", fontsize=10)
    return figure


# --- what was recorded ---------------------------------------------------------------------------


class Reached(NamedTuple):
    """One recorded case: bytes that it has to read, and the GB/s of litellama and its best peer."""

    case: str
    predicted: int
    recorded: int
    rate: float
    best_peer: str
    peer_rate: float
    copy: float


def reached(rows: Sequence[Any]) -> list[Reached]:
    """The cases of ``flash_decoding`` among recorded costs, of the first GPU and dtype named."""
    rows = [r for r in rows if (r["gpu"], r["dtype"]) == (rows[0]["gpu"], rows[0]["dtype"])]
    cases: dict[str, list[Any]] = {}
    for row in rows:
        cases.setdefault(row["case"], []).append(row)
    found = []
    for case, of_case in cases.items():
        ours = next((row for row in of_case if row["peer"] == "litellama"), None)
        if ours is None:
            continue
        peers = [row for row in of_case if row is not ours]
        best = max(peers, key=lambda row: row["gb_per_s"], default=None)
        (B, _, D), (_, KV, T, _) = first_shape(ours), ours["shape"][1]
        size = 4 if ours["dtype"] == "float32" else 2
        found.append(
            Reached(
                case,
                2 * B * T * KV * D * size,
                ours["bytes"],
                ours["gb_per_s"],
                best["peer"] if best else "",
                best["gb_per_s"] if best else 0.0,
                ours["gb_per_s"] / ours["fraction_of_copy"],
            )
        )
    return found


def reached_alt(rows: Sequence[Any]) -> str:
    """The rates of every case in words."""
    said = [
        f"{r.case}: {megabytes(r)}, litellama {r.rate:,.0f}"
        + (f", {r.best_peer} {r.peer_rate:,.0f}" if r.best_peer else "")
        for r in reached(rows)
    ]
    copy = max(r.copy for r in reached(rows))
    return f"Decoding {where(rows)}, in GB/s: {'; '.join(said)}. A copy: {copy:,.0f}."


def megabytes(case: Reached) -> str:
    """Its bytes, with a digit after the point where there is hardly one before it."""
    size = case.predicted / 1e6
    return f"{size:,.0f} MB" if size >= 10 else f"{size:.1f} MB"


def where(rows: Sequence[Any]) -> str:
    """In which dtype, on which GPU and when it was recorded."""
    date = f", {rows[0]['date']}" if "date" in rows[0] else ""
    return f"in {rows[0]['dtype']} on {rows[0]['gpu']}{date}"


def draw_reached(rows: Sequence[Any]) -> "Figure":
    """For each case litellama's rate, its best peer's, and the copy's."""
    cases = reached(rows)
    figure, axes = canvas(7.6, 1.1 + 0.56 * len(cases))
    copy = max(r.copy for r in cases)
    for y, r in enumerate(cases):
        axes.barh(y - 0.19, r.rate, 0.36, color=PALETTE["blue"])
        axes.barh(y + 0.19, r.peer_rate, 0.36, color=PALETTE["grey"])
        # Words that a short bar has no room for stand beside it.
        inside = r.rate > copy / 4
        ours, theirs = (0.0, 0.0) if inside else (r.rate, r.peer_rate)
        style: dict[str, Any] = {"va": "center", "fontsize": 9}
        share = f"{r.rate:,.0f}, {r.rate / r.copy:.0%} of a copy"
        axes.text(20 + ours, y - 0.19, share, color="white" if inside else "black", **style)
        if r.best_peer:
            axes.text(20 + theirs, y + 0.19, f"{r.peer_rate:,.0f} {r.best_peer}", **style)
    axes.axvline(copy, color=PALETTE["vermilion"], linestyle="--", linewidth=1.6)
    axes.set_yticks(range(len(cases)), [f"{r.case}\n{megabytes(r)}" for r in cases])
    axes.tick_params(left=False, labelsize=8.5)
    axes.set(xlim=(0, 1.05 * copy), xlabel="GB/s")
    axes.invert_yaxis()
    axes.grid(axis="x")
    title = f"Decoding {where(rows)}\nblue: litellama; grey: its best peer; dashed: a copy"
    figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    return figure
