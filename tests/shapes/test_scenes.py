"""Scenes: what the attributes say is what is painted."""

import math

import pytest
import torch

from litellama.shapes import scenes
from litellama.shapes.scenes import COLOURS, MAX_OBJECTS, SHAPES, SIZE, Scenes


def draw(batch: int = 64, seed: int = 0, **settings) -> Scenes:
    return scenes.draw_scenes(batch, torch.Generator().manual_seed(seed), **settings)


def paint(drawn: Scenes, seed: int = 0) -> torch.Tensor:
    return scenes.paint(drawn, torch.device("cpu"), seed)


def one(shape: str, **changes) -> Scenes:
    """One red filled shape of radius 20 in the middle."""
    N = MAX_OBJECTS
    settings = {
        "count": torch.tensor([1]),
        "shape": torch.full((1, N), SHAPES.index(shape)),
        "colour": torch.zeros(1, N, dtype=torch.int64),
        "size": torch.ones(1, N, dtype=torch.int64),
        "x": torch.full((1, N), SIZE / 2),
        "y": torch.full((1, N), SIZE / 2),
        "radius": torch.full((1, N), 20.0),
        "angle": torch.zeros(1, N),
        "line": torch.zeros(1, N),
        "wobble": torch.zeros(1, N, 3),
        "tint": torch.zeros(1, N, 3),
    }
    return Scenes(**(settings | changes))


def polygon_area(corners: list[tuple[float, float]]) -> float:
    pairs = zip(corners, [*corners[1:], corners[0]], strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2


def ray(radius: float, turn: float) -> tuple[float, float]:
    return radius * math.sin(turn * 2 * math.pi), -radius * math.cos(turn * 2 * math.pi)


AREAS = {
    "circle": math.pi * 400,
    "square": (2 * 17.0) ** 2,
    "triangle": polygon_area([ray(2 * 11.0, i / 3) for i in range(3)]),
    "star": polygon_area([ray(9.0 if i % 2 else 20.0, i / 10) for i in range(10)]),
    "cross": 2 * 40 * 13.2 - 13.2**2,
}


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_the_area_that_its_formula_says(shape, angle):
    scene = one(shape, angle=torch.full((1, MAX_OBJECTS), angle))
    area = scenes.covers(scene)[0, 0].sum().item()
    assert area == pytest.approx(AREAS[shape], rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_leaves_the_middle_open_and_the_edge_where_it_is(shape):
    line = scenes.covers(one(shape, line=torch.full((1, MAX_OBJECTS), 2.0)))[0, 0]
    filled = scenes.covers(one(shape))[0, 0]
    assert line[SIZE // 2, SIZE // 2] < 0.01 < filled[SIZE // 2, SIZE // 2]
    assert 0 < line.sum() < 0.6 * filled.sum()
    assert (filled - line).min() > -1.01


@pytest.mark.parametrize("name", COLOURS)
def test_an_object_has_its_colour_at_its_centre(name):
    colour = torch.full((1, MAX_OBJECTS), list(COLOURS).index(name))
    pixel = paint(one("circle", colour=colour))[0, :, SIZE // 2, SIZE // 2]
    import colorsys

    expected = colorsys.hsv_to_rgb(*COLOURS[name])
    assert (pixel - torch.tensor(expected)).abs().max() < 0.3  # noise of at most 0.06, 5 sigma


def test_scenes_are_repeatable_varied_and_in_the_picture():
    drawn, again, other = draw(), draw(), draw(seed=1)
    assert torch.equal(drawn.x, again.x)
    assert not torch.equal(drawn.x, other.x)
    assert torch.equal(paint(drawn), paint(again))
    assert not torch.equal(paint(drawn), paint(drawn, seed=1))
    assert set(drawn.count.tolist()) == {1, 2, 3, 4, 5}
    assert set(draw(counts=(2, 3)).count.tolist()) == {2, 3}
    for place in (drawn.x, drawn.y):
        assert (place - drawn.radius).min() >= 0
        assert (place + drawn.radius).max() <= SIZE
    picture = paint(drawn)
    assert picture.shape == (64, 3, SIZE, SIZE)
    assert 0 <= picture.min() < picture.max() <= 1


def test_no_two_objects_of_a_scene_have_their_centres_in_one_another():
    drawn = draw(500)
    gap = torch.hypot(
        drawn.x[:, :, None] - drawn.x[:, None], drawn.y[:, :, None] - drawn.y[:, None]
    )
    there = torch.arange(MAX_OBJECTS) < drawn.count[:, None]
    gap += 1e3 * torch.eye(MAX_OBJECTS) + 1e3 * ~(there[:, :, None] & there[:, None])
    assert (gap > drawn.radius[:, :, None]).all()


def test_large_objects_fill_wide_cells_and_small_ones_stay_small():
    drawn = draw(500, counts=(1,))
    small, large = (drawn.radius[drawn.size == size] for size in (0, 1))
    assert (small.min() >= 7, small.max() <= 9, large.min() >= 12) == (True, True, True)
    assert 40 < large.max() <= scenes.FILLED * SIZE
    assert draw(500, counts=(5,)).radius.max() <= 15


def test_an_unsteady_hand_moves_the_outline_by_its_share_of_the_radius():
    wobble = torch.zeros(1, MAX_OBJECTS, 3)
    wobble[..., 0] = 0.1
    steady, moved = (scenes.covers(one("circle", wobble=w))[0, 0] for w in (0 * wobble, wobble))
    rows = torch.arange(SIZE) + 0.5 - SIZE / 2
    turn = torch.atan2(rows[:, None], rows[None])
    inwards, outwards = (2 * turn).sin() > 0.2, (2 * turn).sin() < -0.2
    assert moved[inwards].sum() < 0.95 * steady[inwards].sum()
    assert moved[outwards].sum() > 1.05 * steady[outwards].sum()


def test_objects_beyond_the_count_are_not_painted():
    few = draw(8, counts=(1,))
    moved = Scenes(**{**few.__dict__, "x": few.x + torch.tensor([0.0, 9, 9, 9, 9])})
    assert torch.equal(paint(few), paint(moved))
