"""Lesson 12: how far attention scores grow, with and without a norm on queries and keys."""

from typing import TYPE_CHECKING

from litellama.course.figures import PALETTE, canvas

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

KEYS, HIDDEN = 24, 64


def last_token_scores(scale: float, norm_weight: float, head_dim: int) -> list["torch.Tensor"]:
    """Scores [KEYS] of the last of some random tokens: as projected, and with both sides normed.

    scale: of the projections' weights; 1 makes queries and keys of size 1.  norm_weight: every
    number of the weight of the queries' norm; that of the keys' norm is 1.
    """
    import torch

    generator = torch.Generator().manual_seed(12)
    x = torch.randn(KEYS, HIDDEN, generator=generator)
    q_proj, k_proj = torch.randn(2, HIDDEN, 128, generator=generator) * HIDDEN**-0.5 * scale
    q, k = x[-1] @ q_proj[:, :head_dim], x @ k_proj[:, :head_dim]
    q_normed, k_normed = (y * y.square().mean(-1, keepdim=True).rsqrt() for y in (q, k))
    return [k @ q * head_dim**-0.5, k_normed @ q_normed * norm_weight * head_dim**-0.5]


def keys_in_use(scores: "torch.Tensor") -> float:
    """exp(entropy) of the weights: n for n equal weights, 1 for one key that takes everything."""
    return float((-scores.softmax(0) * scores.log_softmax(0)).sum().exp())


def score_growth_alt(scale: float, norm_weight: float, head_dim: int) -> str:
    """The largest score and the number of keys in use, with and without the norms."""
    plain, normed = (
        f"largest score {float(scores.abs().max()):,.3g}, {keys_in_use(scores):.1f} keys in use"
        for scores in last_token_scores(scale, norm_weight, head_dim)
    )
    return f"Weights × {scale:g}. Without norms: {plain}. With norms: {normed}."


def score_growth(scale: float, norm_weight: float, head_dim: int) -> "Figure":
    """Scores above, attention weights below; left as projected, right with norms."""
    figure, panels = canvas(7.5, 4.0, rows=2, columns=2)
    both = last_token_scores(scale, norm_weight, head_dim)
    limit = head_dim**0.5 * norm_weight
    most = 1.25 * max(limit, *(float(scores.abs().max()) for scores in both))
    for i, (name, scores) in enumerate(zip(("no norms", "q and k normed"), both, strict=True)):
        colour = PALETTE["blue" if i else "grey"]
        above, below = panels[0][i], panels[1][i]
        above.bar(range(KEYS), scores.tolist(), color=colour)
        above.set(ylim=(-most, most), xticks=[], ylabel="" if i else "score")
        above.set_title(f"{name}: scores up to {float(scores.abs().max()):.3g}", loc="left")
        below.bar(range(KEYS), scores.softmax(0).tolist(), color=colour)
        below.set(ylim=(0, 1.02), xlabel="key", ylabel="" if i else "weight")
        below.set_title(f"{keys_in_use(scores):.1f} of {KEYS} keys in use", loc="left")
    red = PALETTE["vermilion"]
    for y in (limit, -limit):
        panels[0][1].axhline(y, color=red, linestyle="--")
    note = f"no score can pass {limit:.3g}"
    panels[0][1].annotate(
        note, (KEYS, limit), xytext=(0, 3), textcoords="offset points",
        color=red, ha="right", fontsize=9,
    )  # fmt: skip
    return figure
