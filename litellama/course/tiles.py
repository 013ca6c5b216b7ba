"""Lesson 08: a counter of what tiles move, pictures of tiles and of padding, charts of speed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING, Any

from litellama.course.figures import CARD, PALETTE, SOFT, bars, canvas, measure, recorded, show

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class CountedMemory:
    """Memory that counts the bytes that cross: what is not loaded or stored is on the chip."""

    def __init__(self) -> None:
        self.read = self.written = 0

    @property
    def moved(self) -> int:
        """Bytes both ways."""
        return self.read + self.written

    def load(self, x: "torch.Tensor", rows: slice) -> "torch.Tensor":
        """Those rows of a tensor."""
        tile = x[rows]
        self.read += tile.nbytes
        return tile

    def store(self, x: "torch.Tensor", rows: slice, tile: "torch.Tensor") -> None:
        """Put a tile in the place of those rows."""
        x[rows] = tile
        self.written += x[rows].nbytes


# --- the tiles of one head, one after the other --------------------------------------------------

BLOCK, BLOCKS = 4, 4  # rows of a tile; tiles along a side
TOKENS = BLOCK * BLOCKS
_numbers = random.Random(8)
SCORES = [  # a little larger to the right, so that maxima rise
    [round(_numbers.uniform(0, 2.6) + 0.1 * key, 1) for key in range(TOKENS)] for _ in range(TOKENS)
]
VALUES = [round(_numbers.uniform(1, 9), 1) for _ in range(TOKENS)]
STEPS = BLOCKS * (BLOCKS + 1) // 2


@dataclass
class Row:
    """One query's state, what it was before its last block, and what of that is kept."""

    maximum: float = -inf
    total: float = 0.0
    weighted: float = 0.0
    old_maximum: float = -inf
    old_total: float = 0.0
    old_weighted: float = 0.0
    rescale: float = 0.0
    kept_total: float = 0.0
    kept_weighted: float = 0.0

    def take(self, scores: Sequence[float], values: Sequence[float]) -> None:
        """Take a block of keys into the state."""
        self.old_maximum, self.maximum = self.maximum, max([self.maximum, *scores])
        self.old_total, self.old_weighted = self.total, self.weighted
        self.rescale = exp(self.old_maximum - self.maximum)
        weights = [exp(score - self.maximum) for score in scores]
        self.kept_total = self.total * self.rescale
        self.kept_weighted = self.weighted * self.rescale
        self.total = self.kept_total + sum(weights)
        self.weighted = self.kept_weighted + sum(
            weight * value for weight, value in zip(weights, values, strict=True)
        )


def order(version: int) -> list[tuple[int, int]]:
    """(block of queries, block of keys) of each step; what is above the diagonal is skipped."""
    if version == 1:
        return [(i, j) for j in range(BLOCKS) for i in range(j, BLOCKS)]
    return [(i, j) for i in range(BLOCKS) for j in range(i + 1)]


def play(version: int, tile: int) -> tuple[list[Row], int, int]:
    """The rows after so many tiles, and how many blocks of rows were read and written."""
    rows = [Row() for _ in range(TOKENS)]
    read = written = 0
    done = order(version)[:tile]
    for step, (i, j) in enumerate(done):
        for query in range(i * BLOCK, (i + 1) * BLOCK):
            keys = range(j * BLOCK, min((j + 1) * BLOCK, query + 1))
            rows[query].take([SCORES[query][key] for key in keys], [VALUES[key] for key in keys])
        if version == 1:  # k and v for a column; q, and out both ways, for a tile
            read += 2 + 2 * (step == 0 or done[step - 1][1] != j)
            written += 1
        else:  # q and out for a row; k and v for a tile
            read += 2 + (j == 0)
            written += i == j
    return rows, read, written


def describe(tile: int, version: int) -> str:
    """What one tile does to its first query, and what has crossed to memory."""
    rows, read, written = play(version, tile)
    i, j = order(version)[tile - 1]
    row, first = rows[i * BLOCK], i * BLOCK
    if row.old_maximum == -inf:
        moved = f"maximum {row.maximum:g}, sum {row.total:.2f}"
    else:
        rose = row.maximum > row.old_maximum
        moved = f"maximum {row.old_maximum:g} → {row.maximum:g}" if rose else "maximum stays"
        moved += (
            f", sum {row.old_total:.2f} × {row.rescale:.2g} + {row.total - row.kept_total:.2f} "
            f"= {row.total:.2f}"
        )
    return (
        f"Version {version}, tile {tile} of {STEPS}: queries {first} to {first + BLOCK - 1} take "
        f"keys {j * BLOCK} to {j * BLOCK + BLOCK - 1}. Query {first}: {moved}. "
        f"So far {read} blocks read, {written} written."
    )


def draw(tile: int, version: int) -> "Figure":
    """The tiles done so far, the state of the current rows, and the traffic."""
    rows, read, written = play(version, tile)
    figure, panels = canvas(7.8, 3.5, columns=5)
    panels[0].get_gridspec().set_width_ratios([3.1, 1, 1, 1, 0.8])
    draw_tiles(panels[0], version, tile)
    first = order(version)[tile - 1][0] * BLOCK
    mine = rows[first : first + BLOCK]
    # Of each row: what was there, what of it is kept after the rescale, and the new value.
    state = {
        "maximum": [(r.old_maximum, r.old_maximum, r.maximum) for r in mine],
        "sum": [(r.old_total, r.kept_total, r.total) for r in mine],
        "weighted\nvalues": [(r.old_weighted, r.kept_weighted, r.weighted) for r in mine],
    }
    if version == 1:  # the output is divided by the total in every step
        del state["weighted\nvalues"]
        state["output\nso far"] = [
            (r.old_weighted / (r.old_total or 1), r.kept_weighted / r.total, r.weighted / r.total)
            for r in mine
        ]
    limits = (5.2, 9.5, 48.0 if version == 2 else 11.0)
    for axes, (name, states), limit in zip(panels[1:4], state.items(), limits, strict=True):
        for y, (old, kept, new) in enumerate(states):
            axes.barh(y, max(kept, 0), color=PALETTE["grey"])
            axes.barh(y, new - max(kept, 0), left=max(kept, 0), color=PALETTE["blue"])
            axes.barh(y, max(old, 0), color="none", edgecolor=PALETTE["vermilion"], linestyle=":")
            end = max(old, new)
            axes.text(end, y, f" {new:.1f}", va="center", fontsize=8.5)
        axes.set(xlim=(0, limit), ylim=(BLOCK - 0.4, -0.6), xticks=[])
        axes.set_yticks(range(BLOCK), [str(first + y) for y in range(BLOCK)], fontsize=8.5)
        axes.set_title(name, fontsize=9.5, loc="left")
        axes.tick_params(left=False)
    panels[1].set_ylabel("query")
    for x, (count, colour) in enumerate(((read, "sky"), (written, "orange"))):
        panels[4].bar(x, count, 0.7, color=PALETTE[colour])
        panels[4].text(x, count + 0.4, str(count), ha="center", fontsize=9)
    panels[4].set(xlim=(-0.6, 1.6), ylim=(0, 31), yticks=[])
    panels[4].set_xticks([0, 1], ["read", "written"], fontsize=8, rotation=45)
    panels[4].set_title("blocks\nmoved", fontsize=9.5, loc="left")
    words = describe(tile, version).split(" So far")[0].replace(" Query", "\nQuery")
    figure.suptitle(words, x=0.02, ha="left", fontsize=10)
    return figure


def draw_tiles(axes: "Axes", version: int, tile: int) -> None:
    """The score matrix in tiles: skipped, to come, done, and the current one."""
    from matplotlib.patches import Rectangle

    path = order(version)
    for i in range(BLOCKS):
        for j in range(BLOCKS):
            at = path.index((i, j)) + 1 if (i, j) in path else None
            style: dict[str, Any] = {"facecolor": CARD, "edgecolor": PALETTE["grey"]}
            if at is None:
                style |= {"linestyle": ":", "edgecolor": "#d8dbdf"}
            elif at <= tile:
                style |= {"facecolor": PALETTE["blue"] if at == tile else "#d8dbdf"}
            corner = (j * BLOCK + 0.08, i * BLOCK + 0.08)
            axes.add_patch(Rectangle(corner, BLOCK - 0.16, BLOCK - 0.16, **style))
            if i == j:  # the future's corner of a tile on the diagonal
                for k in range(1, BLOCK):
                    y = i * BLOCK + k - 1
                    cut = (j * BLOCK + k, y + 0.08)
                    axes.add_patch(
                        Rectangle(cut, BLOCK - k - 0.08, 1, facecolor=CARD, edgecolor="none")
                    )
            ink = "white" if at == tile else SOFT
            middle = (
                (j + (0.3 if i == j else 0.5)) * BLOCK,
                (i + (0.72 if i == j else 0.5)) * BLOCK,
            )
            axes.text(*middle, str(at or ""), ha="center", va="center", color=ink, fontsize=9)
    edges = range(0, TOKENS + 1, BLOCK)
    axes.set(xlim=(-0.2, TOKENS + 0.2), ylim=(TOKENS + 0.2, -0.2), aspect="equal")
    axes.set(xticks=edges, yticks=edges, xlabel="keys", ylabel="queries")
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


# --- padding -------------------------------------------------------------------------------------


def padding_alt(lengths: Sequence[int]) -> str:
    """How much of a padded batch is real."""
    padded, square = len(lengths) * max(lengths), len(lengths) * max(lengths) ** 2
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    return (
        f"{len(lengths)} texts of {min(lengths)} to {max(lengths)} tokens, padded: "
        f"{sum(lengths) / padded:.0%} of {padded:,} rows are tokens, and {pairs / square:.0%} of "
        f"{square:,} scores are of a token and a key that it sees."
    )


def padding(lengths: Sequence[int]) -> "Figure":
    """A padded batch: its rows of tokens, and the square of scores of each."""
    from matplotlib.patches import Polygon, Rectangle

    longest, columns = max(lengths), 4
    figure, (left, right) = canvas(7.6, 3.3, columns=2)
    for y, length in enumerate(lengths):
        left.barh(y, longest, 0.78, color="none", edgecolor=PALETTE["grey"], linewidth=0.8)
        left.barh(y, length, 0.78, color=PALETTE["blue"])
        x, top = (y % columns) * 1.12 * longest, (y // columns) * 1.12 * longest
        hollow: dict[str, Any] = {
            "facecolor": "none",
            "edgecolor": PALETTE["grey"],
            "linewidth": 0.8,
        }
        right.add_patch(Rectangle((x, top), longest, longest, **hollow))
        corners = [(x, top), (x, top + length), (x + length, top + length)]
        right.add_patch(Polygon(corners, facecolor=PALETTE["blue"], edgecolor="none"))
    side = -(-len(lengths) // columns)
    left.set(xlim=(0, longest * 1.02), ylim=(len(lengths) - 0.4, -0.6), xlabel="rows", yticks=[])
    right.set(xlim=(-9, columns * 1.12 * longest), ylim=(side * 1.12 * longest, -9), aspect="equal")
    right.set(xticks=[], yticks=[])
    right.spines[:].set_visible(False)
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    tokens = sum(lengths) / (len(lengths) * longest)
    left.set_title(f"{tokens:.0%} of the rows are tokens", loc="left", fontsize=10)
    share = pairs / (len(lengths) * longest**2)
    right.set_title(f"{share:.0%} of the scores are needed", loc="left", fontsize=10)
    return figure


# --- how fast ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """TFLOP/s of some peers, that of a large matrix product on the same GPU, and which GPU."""

    peers: dict[str, float]
    product: float
    where: str


def recorded_rates(kernel: str, case: str) -> Rates | None:
    """The rates recorded in bfloat16 for a case of ``litellama bench kernels``; None if none are.

    kernel, case: as in ``litellama/bench/attention.py``.
    """
    rows: list[Any] = [
        row
        for row in recorded(kernel)
        if row.get("case") == case and row["dtype"] == "bfloat16" and "tflop_per_s" in row
    ]
    rows = [row for row in rows if row["gpu"] == rows[0]["gpu"]]
    if not rows:
        return None
    where = f"{rows[0]['gpu']}, recorded {rows[0].get('date', 'earlier')}"
    product = rows[0]["tflop_per_s"] / rows[0]["fraction_of_matmul"]
    return Rates({row["peer"]: row["tflop_per_s"] for row in rows}, product, where)


def measured_rates(peers: dict[str, Callable[[], Any]], flops: float, like: Any) -> Rates:
    """Time each peer on the GPU now; flops: of one call; like: a tensor of the call."""
    from litellama.bench.machine import matmul_rate

    rows = measure("attention", peers, 4 * like.nbytes, like)
    rates = {row["peer"]: flops / row["median_us"] / 1e6 for row in rows}
    where = f"{rows[0]['gpu']}, measured now"
    return Rates(rates, matmul_rate(like.device) / 1e12, where)


def show_rates(title: str, rates: Rates | None) -> None:
    """Bars of the rates under that of a matrix product; says so when there is nothing to show."""
    if rates is None:
        print(f"{title}: no figures are recorded yet; run this lesson on a GPU to measure it.")
        return
    ours = [name for name in rates.peers if "litellama" in name]
    figure = bars(
        rates.peers, "TFLOP/s", rates.product, "a matrix product", highlight=ours,
        title=f"{title}\n{rates.where}",
    )  # fmt: skip
    said = "; ".join(f"{name} {rate:,.0f}" for name, rate in rates.peers.items())
    words = f"{title}, {rates.where}, in TFLOP/s: {said}"
    show(figure, f"{words}; a matrix product {rates.product:,.0f}.")
