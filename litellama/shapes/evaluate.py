"""How often shapes-llava is right: ``python -m litellama.shapes.evaluate OUT`` after training.

Answers count when they are exactly the expected ones.  The scenes are drawn with seeds that
training never used, by the same program (``scenes``) and by another one: Pillow, with rough strokes
of uneven width, other sizes, and its own anti-aliasing (``other_program``).
"""

import json
import math
import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from litellama.shapes import questions, scenes
from litellama.shapes.questions import Question, Thing

HELD_OUT_SEED = 1_000_003  # training uses one generator from its own seed
# What must be reached, and the kinds of question and numbers of objects that it is about.
TARGETS = {
    "one object's colour and shape": ("list", (1,), 0.95),
    "count up to five": ("count", (1, 2, 3, 4, 5), 0.90),
    "left, right, above, below": ("relation", (2, 3, 4, 5), 0.85),
}


def held_out(count: int, kind: str, counts: tuple[int, ...]) -> list[tuple[Any, Question]]:
    """``count`` pictures, uint8 [S, S, 3], each with a question of a kind."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED + questions.KINDS.index(kind))
    rng = random.Random(HELD_OUT_SEED)
    made: list[tuple[Any, Question]] = []
    while len(made) < count:
        drawn = scenes.draw_scenes(64, generator, counts)
        pictures = scenes.paint(drawn, torch.device("cpu"), seed=HELD_OUT_SEED + len(made))
        arrays = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        for array, things in zip(arrays, questions.things_of(drawn), strict=True):
            if question := questions.ask(things, rng, kind):
                made.append((array, question))
    return made[:count]


def other_program(count: int, kind: str, counts: tuple[int, ...]) -> list[tuple[Any, Question]]:
    """The same with Pillow images, drawn by hand as it were: see ``sketch``."""
    rng = random.Random(HELD_OUT_SEED)
    made: list[tuple[Any, Question]] = []
    while len(made) < count:
        image, things = sketch(rng, rng.choice(counts))
        if question := questions.ask(things, rng, kind):
            made.append((image, question))
    return made[:count]


def sketch(rng: random.Random, count: int) -> tuple[Any, list[Thing]]:
    """A picture of 180 to 420 pixels with ``count`` roughly drawn shapes, and what they are."""
    from PIL import Image, ImageColor, ImageDraw, ImageFilter

    edge, names = rng.randint(180, 420), list(scenes.COLOURS)
    big = 2 * edge  # drawn large and made smaller, which smooths the edges
    paper = tuple(rng.randint(200, 255) for _ in range(3))
    image = Image.new("RGB", (big, big), paper)
    draw, things = ImageDraw.Draw(image), []
    cells = rng.sample(range(9), count)
    for cell in cells:
        size, shape, colour = rng.randrange(2), rng.choice(scenes.SHAPES), rng.choice(names)
        r = big / scenes.SIZE * rng.uniform(*scenes.RADII[size])
        x, y = (
            (at + 0.5) * big / 3 + rng.uniform(-1, 1) * max(big / 6 - r, 0)
            for at in (cell % 3, cell // 3)
        )
        hue, saturation, value = scenes.COLOURS[colour]
        ink = ImageColor.getrgb(f"hsv({360 * hue:.0f},{100 * saturation:.0f}%,{100 * value:.0f}%)")
        corners = [
            (x + px + rng.gauss(0, 0.03 * r), y + py + rng.gauss(0, 0.03 * r))
            for px, py in outline(shape, r, rng.uniform(0, 2 * math.pi))
        ]
        if rng.random() < 0.6:
            draw.polygon(corners, fill=ink)
        for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
            draw.line([a, b], fill=ink, width=round(rng.uniform(0.02, 0.035) * big))
        scale = scenes.SIZE / big
        things.append(Thing(shape, colour, scenes.SIZES[size], x * scale, y * scale))
    image = image.resize((edge, edge), Image.Resampling.LANCZOS)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    return image, sorted(things, key=lambda thing: thing.x)


def outline(shape: str, r: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape of radius ``r`` around the origin, turned by ``angle`` radians."""
    if shape == "cross":
        w = 0.33 * r
        plain = [
            (-w, -r), (w, -r), (w, -w), (r, -w), (r, w), (w, w),
            (w, r), (-w, r), (-w, w), (-r, w), (-r, -w), (-w, -w),
        ]  # fmt: skip
    else:
        number = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[shape]
        radii = [r * (0.45 if shape == "star" and i % 2 else 1.0) for i in range(number)]
        turns = [2 * math.pi * i / number for i in range(number)]
        plain = [(d * math.sin(t), -d * math.cos(t)) for d, t in zip(radii, turns, strict=True)]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(px * cos - py * sin, px * sin + py * cos) for px, py in plain]


def accuracy(llm: Any, asked: list[tuple[Any, Question]]) -> dict[str, Any]:
    """The share of exactly right answers, how often a fixed answer would be, and some mistakes."""
    from litellama import SamplingParams

    prompts = [
        llm.chat_prompt([{"role": "user", "content": q.text}], num_images=1) for _, q in asked
    ]
    params = SamplingParams(temperature=0.0, max_tokens=48)
    answers = llm.generate(prompts, params, [[picture] for picture, _ in asked])
    said = [output.text.strip() for output in answers]
    wrong = [
        {"question": q.text, "expected": q.answer, "said": text}
        for (_, q), text in zip(asked, said, strict=True)
        if text != q.answer
    ]
    commonest = Counter(q.answer for _, q in asked).most_common(1)[0][1]
    return {
        "right": 1 - len(wrong) / len(asked),
        "commonest_answer": commonest / len(asked),
        "questions": len(asked),
        "mistakes": wrong[:5],
    }


def evaluate(llm: Any, count: int, workers: int = 0) -> dict[str, Any]:
    """Accuracy by kind of question, on both programs' scenes, and of the targets.

    workers: processes that draw; 0 draws in this one.
    """
    sources = {"scenes": held_out, "other_program": other_program}
    asked = {("targets", name): about[:2] for name, about in TARGETS.items()}
    for kind in questions.KINDS:
        asked["kinds", kind] = kind, (2, 3, 4, 5) if kind == "relation" else (1, 2, 3, 4, 5)
    jobs = [(*which, place) for which in asked for place in sources]
    arguments = [(sources[place], count, *asked[part, name]) for part, name, place in jobs]
    if workers:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
            drawn = list(pool.map(draw, *zip(*arguments, strict=True)))
    else:
        drawn = [draw(*values) for values in arguments]
    made: dict[str, Any] = {"targets": {}, "scenes": {}, "other_program": {}}
    for (part, name, place), pictures in zip(jobs, drawn, strict=True):
        if part == "targets":
            made["targets"].setdefault(name, {"least": TARGETS[name][2]})
            made["targets"][name][place] = accuracy(llm, pictures)
        else:
            made[place][name] = accuracy(llm, pictures)
    return made


def draw(source: Any, count: int, kind: str, counts: tuple[int, ...]) -> list[tuple[Any, Question]]:
    """One source's pictures and questions, for a process of its own."""
    return source(count, kind, counts)


def main(
    out: Annotated[Path, typer.Argument(help="The folder that training wrote.")],
    model: Annotated[str, typer.Option(help="The language model.")] = "smollm2",
    device: str = "auto",
    count: Annotated[int, typer.Option(help="Questions of each kind.")] = 1000,
) -> None:
    """Combine, ask, and write evaluation.json; the combined folder is made in OUT."""
    from litellama import LLM
    from litellama.checkpoints import resolve
    from litellama.shapes.combine import WEIGHTS, combine

    folder = combine(resolve(model), out / WEIGHTS, out)
    llm = LLM(folder, device=device, dtype="float32", max_num_seqs=64, max_seq_len=256)
    start = time.perf_counter()
    result = evaluate(llm, count, workers=min(os.cpu_count() or 1, 16))
    result["seconds"] = round(time.perf_counter() - start, 1)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, target in result["targets"].items():
        print(
            f"{name}: {target['scenes']['right']:.1%} of held-out scenes (at least "
            f"{target['least']:.0%}), {target['other_program']['right']:.1%} of another program's, "
            f"{target['other_program']['commonest_answer']:.1%} by one fixed answer"
        )
    for kind in questions.KINDS:
        print(
            f"  {kind}: {result['scenes'][kind]['right']:.1%}, another program's "
            f"{result['other_program'][kind]['right']:.1%}"
        )


if __name__ == "__main__":
    typer.run(main)
