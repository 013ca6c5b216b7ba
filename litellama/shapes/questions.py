"""Questions about a scene, and the one true answer to each.

A question is asked only where its answer is settled: "left of" needs exactly one object that is
clearly to the left, and none that is nearly level.
"""

import random
from dataclasses import dataclass

from litellama.shapes.scenes import COLOURS, SHAPES, SIZES, Scenes

NUMBERS = ("none", "one", "two", "three", "four", "five")
MARGIN = 12.0  # pixels between two centres before one is clearly left of or above the other
DIRECTIONS = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
KINDS = ("list", "count", "count_shape", "colour", "shape", "size", "exists", "relation")


@dataclass(frozen=True)
class Thing:
    """One object of a scene, by its names and its place."""

    shape: str
    colour: str
    size: str
    x: float
    y: float

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Question:
    """kind: one of ``KINDS``."""

    kind: str
    text: str
    answer: str


def things_of(scenes: Scenes) -> list[list[Thing]]:
    """The objects of each scene, from left to right."""
    columns = (scenes.shape, scenes.colour, scenes.size, scenes.x, scenes.y)
    rows = zip(scenes.count.tolist(), *(c.tolist() for c in columns), strict=True)
    names = list(COLOURS)
    made = []
    for count, shapes, colours, sizes, xs, ys in rows:
        objects = zip(shapes[:count], colours, sizes, xs, ys, strict=False)
        things = [Thing(SHAPES[s], names[c], SIZES[z], x, y) for s, c, z, x, y in objects]
        made.append(sorted(things, key=lambda thing: thing.x))
    return made


def article(words: str) -> str:
    """ "an orange star", "a star"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def listing(things: list[Thing]) -> str:
    """ "A red circle, a blue star and an orange cross." from left to right."""
    named = [article(str(thing)) for thing in things]
    text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{text[0].upper()}{text[1:]}."


def ask(things: list[Thing], rng: random.Random, kind: str) -> Question | None:
    """A question of a kind about a scene; None if the scene settles the answer to none."""
    return ASKERS[kind](things, rng)


def ask_any(things: list[Thing], rng: random.Random) -> Question:
    """A question of a kind that the scene allows, relations twice as often as others."""
    kinds = [*KINDS, "relation"]
    rng.shuffle(kinds)
    for kind in kinds:
        if question := ask(things, rng, kind):
            return question
    raise AssertionError("every scene can be listed")


def ask_list(things: list[Thing], rng: random.Random) -> Question:
    return Question("list", "What is in the picture?", listing(things))


def ask_count(things: list[Thing], rng: random.Random) -> Question:
    answer = NUMBERS[len(things)].capitalize()
    return Question("count", "How many objects are there?", f"{answer}.")


def ask_count_shape(things: list[Thing], rng: random.Random) -> Question:
    # Of shapes that are there, mostly: else nearly all answers are "None."
    shape = rng.choice(things).shape if rng.random() < 0.8 else rng.choice(SHAPES)
    plural = f"{shape}es" if shape == "cross" else f"{shape}s"
    answer = NUMBERS[sum(thing.shape == shape for thing in things)].capitalize()
    return Question("count_shape", f"How many {plural} are there?", f"{answer}.")


def ask_colour(things: list[Thing], rng: random.Random) -> Question | None:
    thing = only(things, rng, lambda thing: thing.shape)
    if thing is None:
        return None
    return Question("colour", f"What colour is the {thing.shape}?", f"{thing.colour.capitalize()}.")


def ask_shape(things: list[Thing], rng: random.Random) -> Question | None:
    thing = only(things, rng, lambda thing: thing.colour)
    if thing is None:
        return None
    return Question(
        "shape",
        f"What shape is the {thing.colour} object?",
        f"{article(thing.shape).capitalize()}.",
    )


def ask_size(things: list[Thing], rng: random.Random) -> Question | None:
    thing = only(things, rng, str)
    if thing is None:
        return None
    text = f"Is the {thing} small or large?"
    return Question("size", text, f"{thing.size.capitalize()}.")


def ask_exists(things: list[Thing], rng: random.Random) -> Question:
    there = {str(thing) for thing in things}
    if rng.random() < 0.5:
        name = str(rng.choice(things))
    else:  # something absent that shares a colour or a shape with what is there, if possible
        thing = rng.choice(things)
        near = [f"{c} {thing.shape}" for c in COLOURS] + [f"{thing.colour} {s}" for s in SHAPES]
        name = rng.choice([n for n in near if n not in there])
    answer = "Yes." if name in there else "No."
    return Question("exists", f"Is there {article(name)}?", answer)


def ask_relation(things: list[Thing], rng: random.Random) -> Question | None:
    """What is to the left of, to the right of, above or below one object: one other, clearly."""
    settled = []
    for thing in things:
        if sum(str(other) == str(thing) for other in things) > 1:
            continue
        for words, (dx, dy) in DIRECTIONS.items():
            ahead = [(o, dx * (o.x - thing.x) + dy * (o.y - thing.y)) for o in things if o != thing]
            clear = [other for other, distance in ahead if distance > MARGIN]
            if len(clear) == 1 and not any(abs(distance) <= MARGIN for _, distance in ahead):
                settled.append((f"What is {words} the {thing}?", clear[0]))
    if not settled:
        return None
    text, other = rng.choice(settled)
    return Question("relation", text, f"{article(str(other)).capitalize()}.")


def only(things: list[Thing], rng: random.Random, name) -> Thing | None:
    """A random object that its name tells from all others."""
    names = [name(thing) for thing in things]
    unique = [t for t, n in zip(things, names, strict=True) if names.count(n) == 1]
    return rng.choice(unique) if unique else None


ASKERS = {
    "list": ask_list,
    "count": ask_count,
    "count_shape": ask_count_shape,
    "colour": ask_colour,
    "shape": ask_shape,
    "size": ask_size,
    "exists": ask_exists,
    "relation": ask_relation,
}
