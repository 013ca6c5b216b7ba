"""Lesson 13: pictures that the reader changes, and what a model looks at in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from litellama.course.figures import INK, PALETTE, canvas
from litellama.shapes.scenes import COLOURS, SHAPES, SIZE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND = 0.9  # a light grey, between 0 and 1
GRID = "#ffffff"


@dataclass(frozen=True)
class Sketch:
    """One object of a picture: its names, its centre in pixels (y downwards), its radius."""

    shape: str
    colour: str
    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 14.0


@cache
def picture(*sketches: Sketch) -> "np.ndarray":
    """uint8 [SIZE, SIZE, 3]: the objects on light grey, filled and upright, later over earlier.

    Painted by ``litellama.shapes.scenes``, which painted the pictures of the training.
    """
    import torch

    from litellama.shapes import scenes

    def row(values: Sequence[float], dtype: "torch.dtype") -> "torch.Tensor":
        return torch.tensor([values], dtype=dtype)

    whole, real = torch.int64, torch.float32
    none = row([0.0] * len(sketches), real)
    batch = scenes.Scenes(
        count=torch.tensor([len(sketches)]),
        shape=row([SHAPES.index(s.shape) for s in sketches], whole),
        colour=row([list(COLOURS).index(s.colour) for s in sketches], whole),
        size=none.to(whole),
        x=row([s.x for s in sketches], real),
        y=row([s.y for s in sketches], real),
        radius=row([s.radius for s in sketches], real),
        angle=none,
        line=none,
        wobble=none[..., None].expand(1, -1, 3),
        tint=none[..., None].expand(1, -1, 3),
    )
    painted = torch.full((3, SIZE, SIZE), BACKGROUND)
    inks = scenes.hsv_to_rgb(scenes.colours(batch))[0]
    for cover, ink in zip(scenes.covers(batch)[0], inks, strict=True):
        painted = painted + cover * (ink[:, None, None] - painted)
    array: np.ndarray = (painted * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return array


def patch_shares(heat: "torch.Tensor") -> list[tuple[int, float]]:
    """The patches with their parts of the heat, the largest first; ``heat`` is [patches]."""
    shares = (heat / heat.sum().clamp(min=1e-12)).tolist()
    return sorted(enumerate(shares), key=lambda pair: -pair[1])


def cut(array: "np.ndarray", patch: int) -> "Figure":
    """A picture with the lines along which it is cut, and its patches in a row-by-row order."""
    side = array.shape[0] // patch
    figure, axes = canvas(7.5, 3.4, columns=2)
    whole, parts = axes
    show_picture(whole, array)
    for at in range(patch, patch * side, patch):
        whole.axhline(at - 0.5, color=PALETTE["blue"], linewidth=0.8)
        whole.axvline(at - 0.5, color=PALETTE["blue"], linewidth=0.8)
    whole.set_title(f"{array.shape[1]} x {array.shape[0]} pixels", loc="left")
    gap = max(patch // 4, 1)
    parts.set(xlim=(-gap, side * (patch + gap)), ylim=(side * (patch + gap), -gap))
    for i in range(side * side):
        top, left = i // side * patch, i % side * patch
        x, y = i % side * (patch + gap), i // side * (patch + gap)
        piece = array[top : top + patch, left : left + patch]
        parts.imshow(piece, extent=(x, x + patch, y + patch, y))
        parts.text(x + 1, y + 1, str(i), fontsize=8, va="top", color=INK)
    parts.set_axis_off()
    parts.set_aspect("equal")
    parts.set_title(f"{side * side} patches of {patch} x {patch}, each a row", loc="left")
    return figure


def looked_at(
    array: "np.ndarray", heat: "torch.Tensor", question: str, answer: str, what: str
) -> "Figure":
    """The picture beside the same picture with a heat map over its patches.

    heat: [patches], at least 0, row by row; the map is scaled to its largest value.
    """
    side = round(len(heat) ** 0.5)
    figure, axes = canvas(7.5, 3.7, columns=2)
    show_picture(axes[0], array)
    axes[0].set_title("the picture", loc="left")
    show_picture(axes[1], array.mean(-1), cmap="gray", vmin=-120, vmax=300)
    grid = heat.view(side, side).numpy()
    extent = (-0.5, array.shape[1] - 0.5, array.shape[0] - 0.5, -0.5)
    axes[1].imshow(grid, cmap="cividis", vmin=0, alpha=0.72, extent=extent)
    axes[1].set_title(what, loc="left")
    figure.suptitle(f"{question}\n{answer}", x=0.02, ha="left", fontsize=11)
    return figure


def show_picture(axes: "Axes", array: "np.ndarray", **how: Any) -> None:
    """The pixels as they are, with no ticks."""
    axes.imshow(array, interpolation="nearest", **how)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def looked_at_alt(
    heat: "torch.Tensor", question: str, answer: str, verb: str = "It looks most at"
) -> str:
    """The question, the answer, and where most of the heat is."""
    side = round(len(heat) ** 0.5)
    best = patch_shares(heat)[:3]
    places = ", ".join(
        f"row {i // side + 1} column {i % side + 1} with {part:.0%}" for i, part in best
    )
    return f"To {question!r} the model answers {answer!r}. {verb} the patches {places}."


def accuracy_rows(evaluation: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Of ``evaluation.json``: on held-out scenes, on another program's, and of a fixed answer."""
    scenes, other = evaluation["scenes"], evaluation["other_program"]
    return {
        kind.replace("_", " "): (
            100 * scenes[kind]["right"],
            100 * other[kind]["right"],
            100 * other[kind]["commonest_answer"],
        )
        for kind in scenes
    }


def accuracy(rows: dict[str, tuple[float, float, float]]) -> "Figure":
    """How often the answers are right, by question: two dots a row, and a tick for a guess."""
    figure, axes = canvas(7.5, 1.0 + 0.3 * len(rows))
    scenes, other, fixed = zip(*rows.values(), strict=True)
    at = range(len(rows))
    axes.hlines(at, other, scenes, color=PALETTE["grey"], linewidth=2)
    axes.plot(scenes, at, "o", color=PALETTE["blue"], label="held-out scenes")
    axes.plot(other, at, "D", color=PALETTE["orange"], label="another program's")
    axes.plot(fixed, at, "|", color=PALETTE["vermilion"], markersize=13, label="a fixed answer")
    axes.set_yticks(at, list(rows))
    axes.invert_yaxis()
    axes.set(xlim=(-1, 102), xlabel="% of the answers that are exactly right")
    axes.grid(axis="x")
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)
    return figure


def accuracy_alt(rows: dict[str, tuple[float, float, float]]) -> str:
    """The chart's numbers."""
    said = "; ".join(f"{name} {a:.0f}, {b:.0f}, {c:.0f}" for name, (a, b, c) in rows.items())
    return (
        "Percent of answers that are exactly right on held-out scenes, on another program's, and "
        f"for the best fixed answer. {said}."
    )
