"""Questions: an independent reading of each one gives the same answer."""

import random
import re
from collections import Counter

import pytest
import torch

from litellama.shapes import questions, scenes
from litellama.shapes.questions import Thing, ask

NUMBERS = ["None.", "One.", "Two.", "Three.", "Four.", "Five."]


def many_scenes(count: int = 300) -> list[list[Thing]]:
    return questions.things_of(scenes.draw_scenes(count, torch.Generator().manual_seed(3)))


def truth(text: str, things: list[Thing]) -> str:
    """The answer by looking at the picture again, question by question."""
    if text == "What is in the picture?":
        words = [f"{'an' if t.colour == 'orange' else 'a'} {t.colour} {t.shape}" for t in things]
        said = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    elif text == "How many objects are there?":
        return NUMBERS[len(things)]
    elif found := re.fullmatch(r"How many (\w+?)(es|s) are there\?", text):
        names = [t.shape for t in things]
        return NUMBERS[names.count(found[1]) or names.count(found[1] + "e")]
    elif found := re.fullmatch(r"What colour is the (\w+)\?", text):
        (said,) = [t.colour for t in things if t.shape == found[1]]
    elif found := re.fullmatch(r"What shape is the (\w+) object\?", text):
        (said,) = ["a " + t.shape for t in things if t.colour == found[1]]
    elif found := re.fullmatch(r"Is the (\w+) (\w+) small or large\?", text):
        (said,) = [t.size for t in things if (t.colour, t.shape) == found.groups()]
    elif found := re.fullmatch(r"Is there an? (\w+) (\w+)\?", text):
        said = "yes" if any((t.colour, t.shape) == found.groups() for t in things) else "no"
    elif found := re.fullmatch(
        r"What is (to the left of|to the right of|above|below) the (.+)\?", text
    ):
        (it,) = [t for t in things if f"{t.colour} {t.shape}" == found[2]]
        beyond = {
            "to the left of": [t for t in things if t.x < it.x - 11.9],
            "to the right of": [t for t in things if t.x > it.x + 11.9],
            "above": [t for t in things if t.y < it.y - 11.9],
            "below": [t for t in things if t.y > it.y + 11.9],
        }[found[1]]
        (other,) = beyond
        said = f"{'an' if other.colour == 'orange' else 'a'} {other.colour} {other.shape}"
    else:
        raise AssertionError(text)
    return said[0].upper() + said[1:] + "."


@pytest.mark.parametrize("kind", questions.KINDS)
def test_answers_are_true_and_varied(kind):
    rng, answers = random.Random(0), Counter()
    for things in many_scenes():
        if question := ask(things, rng, kind):
            assert question.kind == kind
            assert question.answer == truth(question.text, things), (question, things)
            answers[question.answer] += 1
    assert answers.total() > 50
    assert answers.most_common(1)[0][1] < 0.65 * answers.total(), "a fixed answer must not do"


def test_things_come_from_left_to_right():
    assert all([t.x for t in things] == sorted(t.x for t in things) for things in many_scenes(20))


def test_nothing_is_asked_that_is_not_settled():
    rng = random.Random(0)
    twins = [Thing("star", "red", "small", 10, 50), Thing("star", "red", "large", 80, 50)]
    for kind in ("colour", "shape", "size", "relation"):
        assert ask(twins, rng, kind) is None
    level = [Thing("star", "red", "small", 10, 50), Thing("cross", "blue", "large", 20, 40)]
    assert ask(level, rng, "relation") is None
    assert {questions.ask_any(twins, rng).kind for _ in range(60)} == {
        "list", "count", "count_shape", "exists"
    }  # fmt: skip
