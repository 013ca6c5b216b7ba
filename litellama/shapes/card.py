"""The model card of shapes-llava: ``python -m litellama.shapes.card OUT`` after the evaluation.

Every number in it comes from OUT/training.json and OUT/evaluation.json; it is written to
OUT/MODEL_CARD.md, with the losses as OUT/losses.png beside it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from litellama.shapes import questions, scenes
from litellama.shapes.tower import VISION

TEXT = """\
# shapes-llava

A small LLaVA for learning how pictures reach a language model: a vision tower of {layers} layers
and a projector, trained from nothing before SmolLM2-135M-Instruct (Apache-2.0). It answers short
questions in English about drawings of up to {most} shapes, and chats like SmolLM2 where there is no
picture.

## What it was trained on

Scenes drawn by `litellama/shapes/scenes.py`: {shapes}; {colours}; small and large, filled and
outlined, turned, on plain and shaded backgrounds with noise. The questions and their one true
answer are made by `litellama/shapes/questions.py`. No photographs, and no data of anybody else.

{sight_steps} steps in which the tower alone learns to tell what is centred in each patch, then
{steps} steps of {batch} pictures with {turns} questions each: in all {minutes:.1f} minutes on one
{device}, with low-rank changes of rank {rank} to SmolLM2, merged. Seed {seed}.
To train it again: `python -m litellama.shapes.train OUT`.

![The loss of the answers over the steps of training](losses.png)

## How often it is right

An answer counts when it is exactly the expected one. Held-out scenes are drawn by the same program
with other seeds; the other program's are drawn with Pillow in rough strokes, in other sizes. The
last column is what the best fixed answer would reach on the latter.

| question | held-out scenes | another program's | a fixed answer |
|---|---|---|---|
{rows}

## What it cannot do

It has seen nothing but these shapes and colours, in pictures of {size} x {size} pixels: to a
photograph it answers as if it were such a drawing. It answers other questions about a picture than
those above by chance, and like any model of its size it makes up facts when it chats.
"""


def card(training: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The card's Markdown."""
    recipe = training["recipe"]
    measured = {
        name: (target["scenes"], target["other_program"])
        for name, target in evaluation["targets"].items()
    } | {
        kind: (evaluation["scenes"][kind], evaluation["other_program"][kind])
        for kind in questions.KINDS
    }
    rows = [
        f"| {name.replace('_', ' ')} | {ours['right']:.1%} | {other['right']:.1%} "
        f"| {other['commonest_answer']:.1%} |"
        for name, (ours, other) in measured.items()
    ]
    return TEXT.format(
        layers=VISION.num_layers,
        most=scenes.MAX_OBJECTS,
        shapes=", ".join(scenes.SHAPES),
        colours=", ".join(scenes.COLOURS),
        minutes=training["seconds"] / 60,
        device=training["device"],
        rows="\n".join(rows),
        size=scenes.SIZE,
        **{key: recipe[key] for key in ("steps", "sight_steps", "batch", "turns", "rank", "seed")},
    )


def plot(training: dict[str, Any], path: Path) -> None:
    """The losses over the steps, of learning to see and of what follows it."""
    from litellama.course import figures
    from litellama.course.drawing import PALETTE

    figure, axes = figures.canvas()
    before = training["recipe"]["sight_steps"]
    for name, colour in (("answers", "blue"), ("patches", "grey")):
        entries = [(e["step"] - before, e) for e in training["sight"]] if name == "patches" else []
        entries += [(e["step"], e) for e in training["losses"]]
        values = [entry[name] for _, entry in entries]
        axes.plot([at for at, _ in entries], values, color=PALETTE[colour], label=name)
    axes.set(yscale="log", xlabel="step; before 0 the tower alone", ylabel="cross-entropy")
    axes.legend(frameon=False)
    path.write_bytes(figures.png(figure))


def main(out: Annotated[Path, typer.Argument(help="The folder of the run.")]) -> None:
    """Write MODEL_CARD.md and losses.png."""
    training, evaluation = (
        json.loads((out / f"{name}.json").read_text()) for name in ("training", "evaluation")
    )
    (out / "MODEL_CARD.md").write_text(card(training, evaluation))
    plot(training, out / "losses.png")


if __name__ == "__main__":
    typer.run(main)
