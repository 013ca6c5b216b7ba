"""What the widgets of the lessons draw: for each, the picture and the sentence that describes it.

Both take the values of the controls (see ``litellama.course.widgets.explore``).  A picture that
teaches with a few lines of code stays in its lesson; one that is mostly drawing lives here.
"""

from math import cos, exp, inf, pi, sin
from typing import TYPE_CHECKING

from litellama.course.figures import INK, PALETTE, SOFT, canvas

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
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


ONLINE_SCORES = (1.0, 0.2, 1.6, 0.9, 2.4, 0.5, 3.6, 2.9, 1.2, 3.2, 2.0, 0.7)


def online_step(block: int, BLOCK: int) -> tuple[int, float, float, float, float]:
    """Lesson 02: scores seen, then maximum and sum before the block and (rescaled) after it."""
    seen = min(block * BLOCK, len(ONLINE_SCORES))
    old = ONLINE_SCORES[: seen - BLOCK]
    maximum, new_maximum = max(old, default=-inf), max(ONLINE_SCORES[:seen])
    total = sum(exp(x - maximum) for x in old)
    added = sum(exp(x - new_maximum) for x in ONLINE_SCORES[seen - BLOCK : seen])
    return seen, maximum, new_maximum, total, added


def online_alt(block: int, BLOCK: int) -> str:
    """Lesson 02: what one block does to the running maximum and sum."""
    seen, maximum, new_maximum, total, added = online_step(block, BLOCK)
    where = f"Block {seen // BLOCK} of {len(ONLINE_SCORES) // BLOCK}: "
    if seen == BLOCK:
        return f"{where}maximum {new_maximum:g}, sum {added:.2f}."
    rescale = exp(maximum - new_maximum)
    if rescale == 1:
        moved = f"the maximum stays {maximum:g}"
    else:
        moved = f"the maximum rises from {maximum:g} to {new_maximum:g}"
    return (
        f"{where}{moved}, so the sum becomes {total:.2f} × {rescale:.3g} + {added:.2f} = "
        f"{total * rescale + added:.2f}."
    )


def online(block: int, BLOCK: int) -> "Figure":
    """Lesson 02: scores in blocks under the running maximum, and the running sum rescaled."""
    seen, maximum, new_maximum, total, added = online_step(block, BLOCK)
    figure, (above, below) = canvas(7.5, 4.2, rows=2)
    for i, x in enumerate(ONLINE_SCORES):
        colour = "grey" if i < seen - BLOCK else "blue" if i < seen else ""
        edge = PALETTE[colour or "grey"]
        above.bar(i, x, 0.8, color=PALETTE[colour] if colour else "none", edgecolor=edge)
    limit = {"color": PALETTE["vermilion"], "linewidth": 1.8}
    above.hlines(new_maximum, -0.5, seen - 0.5, **limit)
    card = {"facecolor": figure.get_facecolor(), "edgecolor": "none", "pad": 1}
    label = f"maximum {new_maximum:g}"
    above.text(seen - 0.4, new_maximum, label, color=limit["color"], va="center", bbox=card)
    if -inf < maximum < new_maximum:
        above.hlines(maximum, -0.5, seen - BLOCK - 0.5, **limit, linestyle=":")
    for edge_of_block in range(BLOCK, len(ONLINE_SCORES), BLOCK):
        above.axvline(edge_of_block - 0.5, color=SOFT, linewidth=0.6, linestyle=":")
    above.set(xlim=(-0.6, 13.4), ylim=(0, 4.1), xticks=range(12), ylabel="score")
    kept = total * exp(maximum - new_maximum)
    rows = {"old sum": (total, 0.0), "rescaled + new": (kept, added)}
    for name, (old, new) in rows.items():
        below.barh(name, old, color=PALETTE["grey"])
        below.barh(name, new, left=old, color=PALETTE["blue"])
        below.text(old + new + 0.05, name, f"{old + new:.2f}", va="center", fontweight="bold")
    below.set(xlim=(0, 5), xlabel="running sum of exp(score − maximum)")
    below.invert_yaxis()
    below.tick_params(left=False)
    figure.suptitle(online_alt(block, BLOCK), x=0.02, ha="left", fontsize=10)
    return figure


HAND_PAIRS = (0, 4, 8, 12, 16, 24)


def speed(pair: int) -> float:
    """Lesson 04: radians a token of one of the 32 pairs of a SmolLM2 head."""
    return 100_000.0 ** (-pair / 32)


def hands_score(distance: int) -> float:
    """Lesson 04: the mean cosine between the hands of all pairs, at a distance in tokens."""
    return sum(cos(distance * speed(pair)) for pair in range(32)) / 32


def hands_alt(position: int, distance: int) -> str:
    """Lesson 04: where the two stand, and what they score."""
    return (
        f"Query at position {position}, key at {position - distance}: distance {distance}, "
        f"score {hands_score(distance):.2f} of 1."
    )


def hands(position: int, distance: int) -> "Figure":
    """Lesson 04: pairs as clock hands, of a query and of a key before it, and their score."""
    figure, (faces, below) = canvas(7.5, 4.0, rows=2)
    rim = [2 * pi * i / 60 for i in range(61)]
    for i, pair in enumerate(HAND_PAIRS):
        middle = 3.0 * i
        faces.plot([middle + cos(a) for a in rim], [sin(a) for a in rim], color=PALETTE["grey"])
        for where, colour, width in ((position - distance, "grey", 4.5), (position, "blue", 2.2)):
            angle = where * speed(pair)
            x, y = [middle, middle + cos(angle)], [0, sin(angle)]
            faces.plot(x, y, color=PALETTE[colour], linewidth=width, solid_capstyle="round")
        words = f"pair {pair}\n{2 * pi / speed(pair):,.0f} tokens"
        faces.text(middle, 1.25, words, ha="center", va="bottom", fontsize=9)
    faces.set(xlim=(-1.4, 16.4), ylim=(-1.1, 2.6), xticks=[], yticks=[], aspect="equal")
    faces.spines[:].set_visible(False)
    below.plot(range(151), [hands_score(d) for d in range(151)], color=PALETTE["blue"])
    below.plot(distance, hands_score(distance), "o", color=PALETTE["orange"], markersize=9)
    below.grid(axis="y")
    below.set(xlim=(-2, 153), ylim=(0, 1.08), xlabel="distance in tokens", ylabel="score")
    figure.suptitle(hands_alt(position, distance), x=0.02, ha="left", fontsize=10.5)
    return figure


def wavelengths_alt(plain: "torch.Tensor", stretched: "torch.Tensor") -> str:
    """Lesson 04: how many pairs Llama 3's rule keeps, and how far it stretches the slowest."""
    kept = int((plain == stretched).sum())
    before, after = (2 * pi / float(f[-1]) for f in (plain, stretched))
    return (
        f"Tokens per full turn of each of the {len(plain)} pairs, on a log scale, before and after "
        f"Llama 3's scaling: the {kept} fastest pairs are kept, and the slowest goes from "
        f"{before:,.0f} to {after:,.0f} tokens a turn."
    )


def wavelengths(plain: "torch.Tensor", stretched: "torch.Tensor") -> "Figure":
    """Lesson 04: tokens per turn of each pair, before and after Llama 3's scaling."""
    figure, axes = canvas(7.5, 3.4)
    pairs = range(len(plain))
    before, after = ((2 * pi / f).tolist() for f in (plain, stretched))
    axes.semilogy(pairs, after, "o-", color=PALETTE["blue"], markersize=5)
    axes.semilogy(pairs, before, "o-", color=PALETTE["grey"], markersize=5)
    axes.text(len(plain) - 0.6, after[-1], "stretched", color=PALETTE["blue"], va="center")
    axes.text(len(plain) - 0.6, before[-1], "as trained", color=SOFT, va="center")
    card = {"facecolor": figure.get_facecolor(), "edgecolor": "none", "pad": 1}
    limits = {"keep below: 4 turns in 8,192": 2048, "stretch above: 1 turn in 8,192": 8192}
    for words, tokens in limits.items():
        axes.axhline(tokens, color=PALETTE["vermilion"], linestyle=":", linewidth=1.4)
        axes.text(0, tokens, words, color=PALETTE["vermilion"], fontsize=9, va="center", bbox=card)
    axes.set(
        xlim=(-0.8, len(plain) + 3.5),
        xticks=range(0, len(plain), 5),
        xlabel="pair",
        ylabel="tokens per full turn",
    )
    axes.grid(axis="y")
    return figure


# hidden size, intermediate size, bytes of a number
FEED_FORWARD = {
    "SmolLM2": (576, 1536, 2),
    "Llama-3.2-1B": (2048, 8192, 2),
    "Llama-3.1-8B": (4096, 14336, 2),
}


def feed_forward_bytes(tokens: int, model: str) -> tuple[float, float, float, float]:
    """Lesson 05: bytes of weights, of the linears' inputs and outputs, and of SwiGLU both ways."""
    hidden, inner, size = FEED_FORWARD[model]
    weights = 3 * hidden * inner * size
    linears = (
        tokens * (2 * hidden + 3 * inner) * size
    )  # read x; write 2 I; read I; write the result
    return weights, linears, tokens * 5 * inner * size, tokens * 3 * inner * size


def feed_forward_alt(tokens: int, model: str) -> str:
    """Lesson 05: what fusing silu and multiply saves in one feed-forward block."""
    weights, linears, apart, fused = feed_forward_bytes(tokens, model)
    before = weights + linears + apart
    share = (apart - fused) / before
    return (
        f"{model}, {tokens:,} token{'s' * (tokens > 1)}: {before / 1e6:,.1f} MB a block, of which "
        f"{weights / 1e6:,.1f} MB are weights; fusing saves {100 * share:.2g}%."
    )


def feed_forward(tokens: int, model: str) -> "Figure":
    """Lesson 05: the bytes of a feed-forward block, with silu and multiply apart and fused."""
    weights, linears, apart, fused = feed_forward_bytes(tokens, model)
    figure, axes = canvas(7.5, 2.5)
    parts = {"weights": "grey", "linears: in and out": "sky", "silu and multiply": "blue"}
    for name, middle in (("two kernels", apart), ("swiglu", fused)):
        left = 0.0
        for (part, colour), moved in zip(parts.items(), (weights, linears, middle), strict=True):
            label = part if name == "swiglu" else None
            axes.barh(name, moved / 1e6, left=left, color=PALETTE[colour], label=label)
            left += moved / 1e6
        axes.text(left, name, f" {left:,.1f}", va="center", fontweight="bold")
    axes.set(xlim=(0, 1.13 * (weights + linears + apart) / 1e6), xlabel="MB moved")
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), ncols=3, frameon=False, fontsize=9)
    figure.suptitle(feed_forward_alt(tokens, model), x=0.02, ha="left", fontsize=10)
    return figure


def nucleus_state(
    scores: "torch.Tensor", temperature: float, top_p: float
) -> tuple[list[float], list[float], int, float]:
    """Lesson 14: chances and their running sum, the likeliest first; how many are kept; 1 / sum."""
    chances = (scores.double() / temperature).softmax(-1).sort(descending=True).values
    shares = chances.cumsum(0)
    kept = min(int((shares < top_p).sum()) + 1, len(chances))
    return chances.tolist(), shares.tolist(), kept, 1 / float(shares[kept - 1])


def nucleus_alt(scores: "torch.Tensor", words: list[str], temperature: float, top_p: float) -> str:
    """Lesson 14: how many tokens the nucleus has, and what it does to the likeliest."""
    chances, shares, kept, factor = nucleus_state(scores, temperature, top_p)
    return (
        f"T {temperature:g}, top-p {top_p:g}: {kept:,} of {len(chances):,} tokens kept, "
        f"{shares[kept - 1]:.1%} of the probability; “{words[0]}” from {chances[0]:.1%} to "
        f"{chances[0] * factor:.1%}."
    )


def nucleus(scores: "torch.Tensor", words: list[str], temperature: float, top_p: float) -> "Figure":
    """Lesson 14: the likeliest tokens, kept or dropped, over the running sum of all of them.

    scores: the logits [V] of one step; words: the likeliest tokens as text, in order.
    """
    chances, shares, kept, factor = nucleus_state(scores, temperature, top_p)
    figure, (above, below) = canvas(7.5, 4.9, rows=2)
    for i, chance in enumerate(chances[: len(words)]):
        if i < kept:  # what the draw will see: the nucleus shares out what was dropped
            above.bar(i, 100 * chance * factor, 0.8, color="none", edgecolor=PALETTE["blue"])
        above.bar(i, 100 * chance, 0.8, color=PALETTE["blue" if i < kept else "grey"])
    above.set_xticks(range(len(words)), words, rotation=55, ha="right", fontsize=9)
    above.set(xlim=(-0.7, len(words) - 0.3), ylabel="chance, %")
    above.tick_params(bottom=False)
    ranks = range(1, len(shares) + 1)
    below.semilogx(ranks, shares, color=PALETTE["grey"], linewidth=2)
    below.semilogx(ranks[:kept], shares[:kept], color=PALETTE["blue"], linewidth=3.5)
    below.plot(kept, shares[kept - 1], "o", color=PALETTE["blue"], markersize=8)
    below.axhline(top_p, color=PALETTE["vermilion"], linestyle="--", linewidth=1.5)
    below.set(ylim=(0, 1.06), xlabel="tokens, the likeliest first", ylabel="share so far")
    below.grid(axis="y")
    figure.suptitle(nucleus_alt(scores, words, temperature, top_p), x=0.02, ha="left", fontsize=9)
    return figure


# query heads, key/value heads, numbers a head
ATTENTION_HEADS = {
    "SmolLM2": (9, 3, 64),
    "Llama-3.2-1B": (32, 8, 64),
    "Llama-3.1-8B": (32, 8, 128),
}


def attention_bytes(keys: int, step: str, model: str) -> dict[str, tuple[int, int, int]]:
    """Lesson 07: each rung's bytes of q, k, v and the result; of copied keys; of scores."""
    Hq, Hkv, D = ATTENTION_HEADS[model]
    Tq, size = keys if step == "prompt" else 1, 2
    scores, rows, kv = Hq * Tq * keys * size, Hq * Tq * D * size, 2 * Hkv * keys * D * size
    # A copy is read from its original, written, and read; without copies k and v are read once.
    must, copies = 2 * rows + kv, 3 * kv * Hq // Hkv - kv
    return {
        "1: keys repeated": (must, copies, 8 * scores),
        "2: by head index": (must, 0, 8 * scores),
        "3: queries scaled": (must + 2 * rows, 0, 6 * scores),
        "4: one kernel": (must, 0, 0),
    }


def megabytes(moved: int) -> str:
    """Bytes as megabytes, to three digits where they are few."""
    return f"{moved / 1e6:,.0f}" if moved >= 100e6 else f"{moved / 1e6:.3g}"


def attention_traffic_alt(keys: int, step: str, model: str) -> str:
    """Lesson 07: how many megabytes each rung moves."""
    rungs = attention_bytes(keys, step, model)
    moved = ", ".join(f"{name} {megabytes(sum(parts))}" for name, parts in rungs.items())
    queries = f"a prompt of {keys:,} tokens" if step == "prompt" else f"a token over {keys:,} keys"
    return f"One layer of {model}, {queries}, MB: {moved}."


def attention_traffic(keys: int, step: str, model: str) -> "Figure":
    """Lesson 07: the bytes of one layer's attention, at each rung of the ladder."""
    rungs = attention_bytes(keys, step, model)
    figure, axes = canvas(7.5, 2.9)
    colours = {"q, k, v, result": "grey", "copies of k and v": "sky", "scores": "blue"}
    for i, (part, colour) in enumerate(colours.items()):
        before = [sum(parts[:i]) / 1e6 for parts in rungs.values()]
        moved = [parts[i] / 1e6 for parts in rungs.values()]
        axes.barh(list(rungs), moved, left=before, color=PALETTE[colour], label=part)
    for name, parts in rungs.items():
        axes.text(sum(parts) / 1e6, name, f" {megabytes(sum(parts))}", va="center", weight="bold")
    most = max(sum(parts) for parts in rungs.values()) / 1e6
    axes.set(xlim=(0, 1.13 * most), xlabel="MB moved, 16 bits a number")
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=3, frameon=False, fontsize=9)
    words = attention_traffic_alt(keys, step, model).split(", MB:")[0]
    figure.suptitle(words, x=0.02, ha="left", fontsize=10)
    return figure


def weights_panel(axes: "Axes", weights: "torch.Tensor", words: list[str]) -> None:
    """Weights [T, T] as shaded squares with their percentages; the future is left blank."""
    T = len(words)
    for i in range(T):
        for j in range(i + 1):
            w = float(weights[i, j])
            for colour, alpha in (("grey", 0.12), ("blue", w)):
                axes.barh(i, 0.94, 0.94, j - 0.47, color=PALETTE[colour], alpha=alpha)
            ink = "white" if w > 0.8 else INK
            axes.text(j, i, f"{100 * w:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set(xlim=(-0.6, T - 0.4), ylim=(T - 0.4, -0.6), aspect="equal")
    axes.set_xticks(range(T), words, rotation=45, ha="right", fontsize=8.5)
    axes.set_yticks(range(T), words, fontsize=8.5)
    axes.tick_params(left=False, bottom=False)
    axes.spines[:].set_visible(False)


def attention_heads_alt(weights: "torch.Tensor", chosen: dict[str, tuple[int, int]]) -> str:
    """Lesson 07: what each chosen head's last word looks at."""
    said = [
        f"layer {layer} head {head} ({name}) gives "
        + ", ".join(f"{100 * w:.0f}" for w in weights[layer, head, -1].tolist())
        for name, (layer, head) in chosen.items()
    ]
    return f"Attention weights as squares. The last word's row, in percent: {'; '.join(said)}."


def attention_heads(
    weights: "torch.Tensor", words: list[str], chosen: dict[str, tuple[int, int]]
) -> "Figure":
    """Lesson 07: the weights of some heads side by side; weights is [layers, heads, T, T]."""
    figure, panels = canvas(7.8, 3.2, columns=len(chosen))
    for axes, (name, (layer, head)) in zip(panels, chosen.items(), strict=True):
        weights_panel(axes, weights[layer, head], words)
        axes.set_title(f"{name}\nlayer {layer}, head {head}", loc="left", fontsize=10)
    for axes in panels[1:]:
        axes.set_yticks([])
    return figure


def attention_head_alt(weights: "torch.Tensor", words: list[str], layer: int, head: int) -> str:
    """Lesson 07: what the words look at most in one head."""
    most = weights[layer, head].argmax(-1).tolist()
    looks = ", ".join(
        f"{word} → {words[j]} {100 * float(weights[layer, head, i, j]):.0f}%"
        for i, (word, j) in enumerate(zip(words, most, strict=True))
        if i
    )
    return f"Layer {layer}, head {head}: {looks}."


def attention_head(weights: "torch.Tensor", words: list[str], layer: int, head: int) -> "Figure":
    """Lesson 07: one head's weights, and the mean over the heads of its layer."""
    figure, panels = canvas(7.5, 3.7, columns=2)
    weights_panel(panels[0], weights[layer, head], words)
    group = head // (ATTENTION_HEADS["SmolLM2"][0] // ATTENTION_HEADS["SmolLM2"][1])
    title = f"layer {layer}, head {head}, keys of head {group}"
    panels[0].set_title(title, loc="left", fontsize=10)
    weights_panel(panels[1], weights[layer].mean(0), words)
    panels[1].set_title(f"layer {layer}, mean of all heads", loc="left", fontsize=10)
    panels[1].set_yticks([])
    return figure


# model -> outputs N and inputs K of the linear that makes gate and up
LINEARS = {
    "SmolLM2": (3072, 576),
    "Llama-3.2-1B": (16384, 2048),
    "Llama-3.1-8B": (28672, 4096),
}
# The data sheet of an H100 SXM: bytes a second, and bfloat16 FLOP a second of its tensor cores.
H100_BYTES, H100_FLOPS = 3.35e12, 989e12


def linear_work(tokens: int, matrix: str) -> tuple[float, float]:
    """Lesson 06: FLOPs of a linear and the bytes it moves in bfloat16, everything once."""
    N, K = LINEARS[matrix]
    return 2.0 * tokens * N * K, 2.0 * (N * K + tokens * K + tokens * N)


def linear_limit_alt(tokens: int, matrix: str) -> str:
    """Lesson 06: the two times of a linear on an H100, and which of them is the limit."""
    flops, moved = linear_work(tokens, matrix)
    memory, arithmetic = 1e6 * moved / H100_BYTES, 1e6 * flops / H100_FLOPS
    limit = "memory" if memory > arithmetic else "arithmetic"
    return (
        f"{tokens:,} token{'s' * (tokens > 1)}: {flops / moved:,.3g} FLOP for each byte; memory "
        f"takes {memory:,.3g} µs, arithmetic {arithmetic:,.3g} µs. The limit is {limit}."
    )


def linear_limit(tokens: int, matrix: str) -> "Figure":
    """Lesson 06: a linear under the roofline of an H100, and the time that each limit sets."""
    flops, moved = linear_work(tokens, matrix)
    figure, (roof, below) = canvas(7.5, 4.6, rows=2)
    ridge, x = H100_FLOPS / H100_BYTES, flops / moved
    roof.loglog([0.3, ridge, 2e4], [0.3 * H100_BYTES, H100_FLOPS, H100_FLOPS], color=SOFT)
    roof.axvline(ridge, color=PALETTE["vermilion"], linestyle=":")
    card = {"facecolor": figure.get_facecolor(), "edgecolor": "none", "pad": 1}
    roof.text(
        ridge, 3e12, f"ridge: {ridge:.0f} FLOP/byte", color=PALETTE["vermilion"], bbox=card,
        ha="center", fontsize=9,
    )  # fmt: skip
    for other in (1, 16, 256, 4096):
        work, bytes_of_it = linear_work(other, matrix)
        y = min(work / bytes_of_it * H100_BYTES, H100_FLOPS)
        roof.plot(work / bytes_of_it, y, "o", color=PALETTE["grey"], markersize=5)
    roof.plot(x, min(x * H100_BYTES, H100_FLOPS), "o", color=PALETTE["blue"], markersize=10)
    roof.set(ylim=(1e12, 3e15), xlabel="FLOP for each byte", ylabel="FLOP/s")
    times = {"memory": 1e6 * moved / H100_BYTES, "arithmetic": 1e6 * flops / H100_FLOPS}
    slowest = max(times, key=lambda name: times[name])
    for name, time in times.items():
        below.barh(name, time, color=PALETTE["blue" if name == slowest else "grey"])
        below.text(time, name, f" {time:,.3g}", va="center", fontweight="bold")
    below.set(xlim=(0, 1.2 * times[slowest]), xlabel="µs, on the data sheet's H100")
    below.invert_yaxis()
    below.tick_params(left=False)
    figure.suptitle(linear_limit_alt(tokens, matrix), x=0.02, ha="left", fontsize=10)
    return figure
