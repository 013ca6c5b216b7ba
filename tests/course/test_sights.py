"""Lesson 13: what is drawn is where it was asked for, and what is said is what is shown."""

import json

import numpy as np
import pytest
import torch

from litellama.course import sights
from litellama.course.lessons import ROOT
from litellama.course.sights import Sketch
from litellama.shapes.scenes import COLOURS, SHAPES, SIZE

GREY = round(255 * sights.BACKGROUND)


def drawn(array: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that are not background, [n, 2]."""
    return np.argwhere((array != GREY).any(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_is_where_and_as_large_as_asked(shape):
    where = drawn(sights.picture(Sketch(shape, "green", 30, 60, 10)))
    assert np.abs(where.mean(0) + 0.5 - [60, 30]).max() < 2.5
    assert 6 <= np.abs(where + 0.5 - [60, 30]).max() <= 11


def test_colours_differ_and_the_background_is_the_background():
    pictures = [sights.picture(Sketch("square", colour)) for colour in COLOURS]
    middles = {tuple(array[SIZE // 2, SIZE // 2]) for array in pictures}
    assert len(middles) == len(COLOURS)
    assert all((array[0, 0] == GREY).all() for array in pictures)
    assert pictures[0].dtype == np.uint8
    assert pictures[0].shape == (SIZE, SIZE, 3)
    red, green = (pictures[list(COLOURS).index(name)][48, 48] for name in ("red", "green"))
    assert red.argmax() == 0
    assert green.argmax() == 1


def test_a_later_object_lies_over_an_earlier_one():
    alone = sights.picture(Sketch("square", "blue"))
    both = sights.picture(Sketch("circle", "red", radius=30), Sketch("square", "blue"))
    assert (both[48, 48] == alone[48, 48]).all()
    assert len(drawn(both)) > len(drawn(alone))


def test_the_alt_text_names_the_hottest_patches_first():
    heat = torch.zeros(36)
    heat[8], heat[35] = 3, 1
    said = sights.looked_at_alt(heat, "What?", "A star.")
    assert "row 2 column 3 with 75%, row 6 column 6 with 25%" in said
    assert "'What?'" in said
    assert "'A star.'" in said
    assert "nan" not in sights.looked_at_alt(torch.zeros(36), "What?", "A star.")


def test_the_figures_draw():
    array = sights.picture(Sketch("star", "red"))
    assert len(sights.cut(array, 16).axes[1].images) == 36
    figure = sights.looked_at(array, torch.rand(36), "What?", "A star.", "heat")
    assert figure.axes[1].images[-1].get_array().shape == (6, 6)


def test_the_accuracy_is_the_records():
    path = ROOT / "litellama" / "shapes" / "evaluation.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = sights.accuracy_rows(record)
    assert len(rows) == len(record["scenes"])
    assert rows["count shape"][0] == 100 * record["scenes"]["count_shape"]["right"]
    assert rows["count shape"][1] == 100 * record["other_program"]["count_shape"]["right"]
    assert all(
        f"{name} {right:.0f}" in sights.accuracy_alt(rows) for name, (right, *_) in rows.items()
    )
    assert len(sights.accuracy(rows).axes[0].get_yticks()) == len(rows)
