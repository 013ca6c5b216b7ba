"""Lesson 11: one layer drawn, what a model would say after each layer, and the bytes of a token."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellama.config import ModelConfig
from litellama.course.drawing import PALETTE, Drawing
from litellama.course.figures import BENCHMARKS, INK, SOFT, bars, canvas

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

# --- one layer, drawn ----------------------------------------------------------------------------

BRANCHES = (
    (
        52,
        ["RMSNorm", "q, k, v\nlinear", "RoPE", "attention\nKV cache", "output\nlinear"],
        "tokens look at each other",
    ),
    (532, ["RMSNorm", "gate, up\nlinear", "SwiGLU", "down\nlinear"], "each token alone"),
)


def layer_diagram() -> str:
    """A decoder layer as two branches of the residual stream."""
    d = Drawing(
        908,
        226,
        "One decoder layer. The residual stream runs through from left to right. A first branch "
        "leaves it: RMSNorm, q, k, v linear, RoPE, attention with the KV cache, output linear, and "
        "is added back. A second branch leaves after that: RMSNorm, gate and up linear, SwiGLU, "
        "down linear, and is added back.",
    )
    y, wide, step = 130, 72, 84
    d.text(24, 30, "residual stream", 13, "", "start")
    for start, names, note in BRANCHES:
        end = start + step * (len(names) - 1) + wide
        for i, name in enumerate(names):
            x = start + i * step
            style = "plain" if name == "RMSNorm" else "lit"
            d.box(x, y, wide, 48, name, style, "", 12)
            if i:
                d.arrow((x - step + wide + 1, y + 24), (x - 1, y + 24))
        d.arrow((start + wide / 2, 60), (start + wide / 2, y - 1))
        d.arrow((end - wide / 2, y - 1), (end - wide / 2, 78))
        d.text((start + end) / 2, y + 74, note, 12, "soft")
    ends = [start + step * (len(names) - 1) + wide / 2 for start, names, _ in BRANCHES]
    d.arrow((24, 60), (ends[0] - 17, 60))
    d.arrow((ends[0] + 17, 60), (ends[1] - 17, 60))
    d.arrow((ends[1] + 17, 60), (892, 60))
    for middle in ends:
        d.box(middle - 16, 44, 32, 32, "+", "green", "", 16)
    return d.svg()


# --- the logit lens ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lens:
    """What a model would say after the embedding (layer 0) and after each layer of one text.

    words: the text's tokens.  probabilities: [layers + 1, T, vocab].  decode: token id -> text.
    """

    words: list[str]
    probabilities: "torch.Tensor"
    decode: Callable[[int], str]

    def top(self, layer: int, token: int, count: int) -> list[tuple[str, float]]:
        """The likeliest next tokens after a layer, as Python shows them, with probabilities."""
        values, ids = self.probabilities[layer, token].topk(count)
        said = [repr(self.decode(i)).replace("$", r"\$") for i in ids.tolist()]
        return list(zip(said, values.tolist(), strict=True))

    @property
    def answer(self) -> int:
        """The token that the whole model says last."""
        return int(self.probabilities[-1, -1].argmax())


def lens_rows(lens: Lens) -> list[int]:
    """The layers that are drawn: every third, and the last ones."""
    last = len(lens.probabilities) - 1
    return sorted({*range(0, last - 2, 3), *range(last - 2, last + 1)})


def lens_grid(lens: Lens) -> "Figure":
    """The first choice after some layers (up) at each token (across); darker is surer."""
    rows = lens_rows(lens)
    figure, axes = canvas(7.5, 0.9 + 0.3 * len(rows))
    for y, layer in enumerate(rows):
        for x in range(len(lens.words)):
            ((word, sure),) = lens.top(layer, x, 1)
            axes.barh(y, 0.96, left=x, height=0.9, color=PALETTE["blue"], alpha=0.08 + 0.92 * sure)
            ink = "white" if sure > 0.65 else INK
            axes.text(x + 0.48, y, word[:14], ha="center", va="center", fontsize=9, color=ink)
    axes.set_yticks(range(len(rows)), [str(layer) for layer in rows])
    axes.set_xticks([x + 0.48 for x in range(len(lens.words))], lens.words)
    axes.set(ylabel="after layer", xlabel="the text; above each word: what comes next?")
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def lens_grid_alt(lens: Lens) -> str:
    """The last token's first choices on the way up."""
    steps = []
    for layer in lens_rows(lens)[-6:]:
        ((word, sure),) = lens.top(layer, -1, 1)
        steps.append(f"layer {layer} {word} {sure:.0%}")
    return (
        "The likeliest next token after every third layer, at each token of the text. At the last "
        f"one: {', '.join(steps)}."
    )


def lens_layer(lenses: dict[str, Lens], text: str, layer: int) -> "Figure":
    """Left: the likeliest next tokens after a layer.  Right: the final answer, layer by layer.

    text: the name of one of the lenses.
    """
    lens = lenses[text]
    figure, (left, right) = canvas(7.5, 3.3, columns=2)
    figure.suptitle(f"“{''.join(lens.words)} …”", x=0.02, ha="left", fontsize=11)
    top = lens.top(layer, -1, 7)
    answer = repr(lens.decode(lens.answer)).replace("$", r"\$")
    colours = [PALETTE["green" if word == answer else "blue"] for word, _ in top]
    left.barh(range(len(top)), [sure for _, sure in top], color=colours)
    left.set_yticks(range(len(top)), [word[:16] for word, _ in top])
    left.invert_yaxis()
    left.set(xlim=(0, 1), xlabel="probability")
    left.set_title("after the embedding" if layer == 0 else f"after layer {layer}", loc="left")
    course = lens.probabilities[:, -1, lens.answer].tolist()
    right.plot(range(len(course)), course, color=PALETTE["green"], linewidth=2)
    right.plot(layer, course[layer], "o", color=PALETTE["blue"], markersize=9)
    right.set(ylim=(-0.03, 1.03), xlabel="after layer")
    right.set_title(f"probability of the answer, {answer}", loc="left")
    right.grid()
    return figure


def lens_layer_alt(lenses: dict[str, Lens], text: str, layer: int) -> str:
    """The three likeliest tokens, and the final answer's probability here and in the end."""
    lens = lenses[text]
    said = ", ".join(f"{word} {sure:.0%}" for word, sure in lens.top(layer, -1, 3))
    now, end = (float(lens.probabilities[i, -1, lens.answer]) for i in (layer, -1))
    return (
        f"“{''.join(lens.words)} …”, after layer {layer}: {said}. The final answer, "
        f"{lens.decode(lens.answer)!r}, has {now:.0%} here and {end:.0%} in the end."
    )


def error_by_layer(curves: dict[str, list[float]], floor: float = 1e-8) -> "Figure":
    """Relative errors of the residual stream after each layer, on a log scale from ``floor`` on."""
    figure, axes = canvas(7.5, 2.9)
    for (name, errors), colour in zip(
        curves.items(), ("green", "vermilion", "orange"), strict=False
    ):
        drawn = [max(error, floor) for error in errors]
        axes.semilogy(drawn, color=PALETTE[colour], linewidth=2, label=name)
    axes.set(xlabel="layers done", ylabel="relative error")
    if any(error < floor for errors in curves.values() for error in errors):
        words = "equal to the last bit, or nearly"
        axes.text(len(drawn) - 1, floor * 2, words, ha="right", fontsize=9, color=SOFT)
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    axes.grid()
    return figure


# --- the bytes of a token ------------------------------------------------------------------------

PART_COLOURS = {
    "attention linears": "blue",
    "feed-forward": "sky",
    "head": "orange",
    "KV cache": "green",
}


def token_bytes(config: ModelConfig, keys: int, element_size: int = 2) -> dict[str, int]:
    """Bytes that one token reads, alone in its step, with ``keys`` tokens in the cache.

    Norms and the embedding's one row, under a thousandth of the whole, are left out.
    """
    c = config
    attention = (2 * c.q_size + 2 * c.kv_size) * c.hidden_size
    feed_forward = 3 * c.intermediate_size * c.hidden_size
    return {
        "attention linears": c.num_layers * attention * element_size,
        "feed-forward": c.num_layers * feed_forward * element_size,
        "head": c.vocab_size * c.hidden_size * element_size,
        "KV cache": keys * c.kv_bytes_per_token(element_size),
    }


def byte_shares(configs: dict[str, ModelConfig], keys: int) -> "Figure":
    """For each model a bar of 100%, cut into the parts of a token's bytes."""
    figure, axes = canvas(7.5, 1.2 + 0.45 * len(configs))
    ticks = []
    for y, (name, config) in enumerate(configs.items()):
        parts, left = token_bytes(config, keys), 0.0
        total = sum(parts.values())
        ticks.append(f"{name}\n{total / 1e6:,.0f} MB")
        for part, size in parts.items():
            share = 100 * size / total
            label = part if y == 0 else None
            colour = PALETTE[PART_COLOURS[part]]
            axes.barh(y, share, left=left, color=colour, height=0.7, label=label)
            if share > 4:
                ink = "white" if part == "attention linears" else "black"
                middle = left + share / 2
                axes.text(middle, y, f"{share:.0f}", ha="center", va="center", color=ink)
            left += share
    axes.set_yticks(range(len(ticks)), ticks)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel=f"% of the bytes of a token, {keys:,} tokens in the cache")
    axes.tick_params(left=False)
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figure


def byte_shares_alt(configs: dict[str, ModelConfig], keys: int) -> str:
    """The parts of each model's bytes, in percent."""
    said = []
    for name, config in configs.items():
        parts = token_bytes(config, keys)
        total = sum(parts.values())
        shares = ", ".join(f"{part} {size / total:.0%}" for part, size in parts.items())
        said.append(f"{name} ({total / 1e6:,.0f} MB): {shares}")
    return f"Where a token's bytes go with {keys:,} tokens in the cache. {'; '.join(said)}."


def recorded_steps(folder: Path = BENCHMARKS) -> list[dict[str, Any]]:
    """Records of the engine making one token at a time, those taken on a GPU first."""
    found = []
    for path in sorted(folder.glob("engine_*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("kind") == "generate" and record.get("work", {}).get("batch") == 1:
            found.append(record)
    return sorted(found, key=lambda record: not record.get("gpu"))


def step_bars(record: dict[str, Any]) -> tuple["Figure", str]:
    """A record's milliseconds a token beside the least that its bytes allow; and in words."""
    ours = record["peers"]["litellama"]
    times = {name: peer["ms_per_token"] for name, peer in record["peers"].items()}
    least = ours["ms_per_token"] * ours["fraction_of_limit"]
    where = record.get("gpu") or record.get("cpu", "a CPU")
    title = f"{record['model']}, {record['dtype']}, one request, on {where}, {record['date']}"
    figure = bars(
        times, "ms a token", least, "the bytes at the memory's speed", ["litellama"], title, 2
    )
    said = "; ".join(f"{name} {ms:.2f}" for name, ms in times.items())
    return figure, f"{title}, in ms a token: {said}; the least for its bytes {least:.2f}."
