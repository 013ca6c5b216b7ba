"""What the widgets of the lessons draw: for each, the picture and the sentence that describes it.

Both take the values of the controls (see ``litellama.course.widgets.explore``).  A picture that
teaches with a few lines of code stays in its lesson; one that is mostly drawing lives here.
"""

from typing import TYPE_CHECKING

from litellama.course.figures import PALETTE, SOFT, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lanes_alt(n: int, BLOCK: int) -> str:
    """Lesson 01: how many programs and lanes serve n elements, and how many lanes are masked."""
    programs = -(-n // BLOCK)
    lanes = programs * BLOCK
    return (
        f"{programs} program{'s' * (programs > 1)} × {BLOCK} lanes = {lanes} lanes: "
        f"{n} used, {lanes - n} masked ({1 - n / lanes:.0%})"
    )


def lanes(n: int, BLOCK: int) -> "Figure":
    """Lesson 01: a row for each program, a square for each lane; masked lanes are hollow."""
    programs = -(-n // BLOCK)
    figure, axes = canvas(7.5, 0.7 + 0.34 * programs)
    for offset in range(programs * BLOCK):
        program, lane = divmod(offset, BLOCK)
        inside = offset < n
        fill, edge, ink = ("blue", "blue", "white") if inside else ("", "grey", SOFT)
        colour = PALETTE[fill] if fill else "none"
        axes.bar(lane, 0.82, 0.9, program - 0.41, color=colour, edgecolor=PALETTE[edge])
        axes.text(lane, program, offset, ha="center", va="center", fontsize=9, color=ink)
    axes.set(xlim=(-0.7, 15.7), ylim=(programs - 0.4, -0.6), xticks=[], yticks=range(programs))
    axes.set_ylabel("program")
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    axes.set_title(lanes_alt(n, BLOCK), loc="left")
    return figure


def normed(x4: float, eps: float, scale: float) -> tuple[list[float], list[float]]:
    """Lesson 03: x = scale * [1, -5, 5, x4], and its RMSNorm."""
    x = [scale * value for value in (1.0, -5.0, 5.0, x4)]
    rms = (sum(v * v for v in x) / 4 + eps) ** 0.5
    return x, [v / rms for v in x]


def norm_alt(x4: float, eps: float, scale: float) -> str:
    """Lesson 03: the numbers before and after the norm."""
    x, y = (", ".join(f"{v:.3g}" for v in values) for values in normed(x4, eps, scale))
    return f"Bars of x = [{x}] beside bars of its RMSNorm [{y}], epsilon {eps:g}."


def norm(x4: float, eps: float, scale: float) -> "Figure":
    """Lesson 03: four numbers beside what the norm makes of them."""
    figure, panels = canvas(7.5, 2.7, columns=2)
    pairs = zip(panels, normed(x4, eps, scale), ("x", "rms_norm(x)"), ("grey", "blue"), strict=True)
    for axes, values, name, colour in pairs:
        rms = (sum(v * v for v in values) / 4) ** 0.5
        axes.bar(range(4), values, color=PALETTE[colour])
        axes.axhline(0, color=SOFT, linewidth=1)
        axes.set_xticks(range(4), [f"{v:.3g}" for v in values])
        axes.set_title(f"{name}, rms {rms:.3g}", loc="left")
    panels[1].set_ylim(-2.1, 2.1)
    return figure
