"""Lesson 10's moving picture: six chats in one pool of slots, as slabs and as blocks.

The blocks are those of the engine's own ``BlockManager``, drawn from its ``snapshot``.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from litellama.course.figures import CARD, INK, PALETTE, SOFT, canvas
from litellama.engine.block_manager import BlockManager

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOTS, ROW = 64, 32  # slots in the pool, and in one line of the picture
OPENING, MOST = 8, 9  # tokens of the common system prompt; the longest answer
# step of arrival, tokens of the chat's own question, tokens of its answer
CHATS = ((0, 3, 7), (0, 6, 8), (1, 2, 3), (3, 5, 8), (5, 2, 5), (6, 7, 8))
COLOURS = ("blue", "orange", "green", "purple", "sky", "vermilion")
LAST_STEP = 27


@dataclass(eq=False)
class Chat:
    """One chat: its number, its tokens so far, and the number of tokens that it will have."""

    number: int
    tokens: list[int]
    prompt: int
    end: int
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)

    def next_token(self) -> int:
        """A token that no other chat has."""
        return 1000 * (self.number + 1) + len(self.tokens)


@dataclass(frozen=True)
class Slot:
    """A slot for drawing: the chats that own it, and "token", "idle", "cached" or "free"."""

    owners: tuple[int, ...]
    kind: str


class Pool(Protocol):
    """What the two pools have in common."""

    def admit(self, chat: Chat, running: int) -> bool:
        """Room for a new chat."""

    def grow(self, chat: Chat) -> bool:
        """Room for one more token."""

    def release(self, chat: Chat) -> None:
        """Take back all that a chat owns."""

    def slots(self, running: list[Chat]) -> list[Slot]:
        """The state of every slot."""


class Slabs:
    """Each chat has slots side by side, as many as it may ever need, from the first fit on."""

    def __init__(self) -> None:
        self._pool = "." * SLOTS

    def admit(self, chat: Chat, running: int) -> bool:
        start = self._pool.find("." * (chat.prompt + MOST))
        if start >= 0:
            stop = start + chat.prompt + MOST
            chat.blocks = list(range(start, stop))
            self._write(chat, "x")
        return start >= 0

    def grow(self, chat: Chat) -> bool:
        return True

    def release(self, chat: Chat) -> None:
        self._write(chat, ".")

    def slots(self, running: list[Chat]) -> list[Slot]:
        slots = [Slot((), "free")] * SLOTS
        for chat in running:
            for i, slot in enumerate(chat.blocks):
                slots[slot] = Slot((chat.number,), "token" if i < len(chat.tokens) else "idle")
        return slots

    def _write(self, chat: Chat, mark: str) -> None:
        start, stop = chat.blocks[0], chat.blocks[-1] + 1
        self._pool = self._pool[:start] + mark * (stop - start) + self._pool[stop:]


class Blocks:
    """The engine's manager; a step fills what it takes."""

    def __init__(self, block_size: int) -> None:
        self._manager = BlockManager(SLOTS // block_size, block_size)

    def admit(self, chat: Chat, running: int) -> bool:
        self._manager.new_step()
        self._manager.extend_keys(chat.keys, chat.tokens)
        found = self._manager.start(chat.blocks, chat.keys, len(chat.tokens), spare=running)
        if found is not None:
            self._publish(chat)
        return found is not None

    def grow(self, chat: Chat) -> bool:
        self._publish(chat)
        return self._manager.grow(chat.blocks, len(chat.tokens) + 1)

    def release(self, chat: Chat) -> None:
        self._manager.release(chat.blocks)

    def slots(self, running: list[Chat]) -> list[Slot]:
        size = self._manager.block_size
        states = self._manager.snapshot({chat.number: chat.blocks for chat in running})
        slots = [
            Slot(state.owners, "idle" if state.state == "used" else state.state)
            for state in states
            for _ in range(size)
        ]
        for chat in running:
            for slot in self._manager.slots(chat.blocks, 0, len(chat.tokens)):
                slots[slot] = Slot(slots[slot].owners, "token")
        return slots

    def _publish(self, chat: Chat) -> None:
        self._manager.extend_keys(chat.keys, chat.tokens)
        self._manager.publish(chat.blocks, chat.keys, len(chat.tokens))


def play(pool: Pool, step: int) -> tuple[list[Slot], int, int]:
    """The slots after so many steps, and how many chats run and wait."""
    waiting: list[Chat] = []
    running: list[Chat] = []
    for now in range(step + 1):
        for chat in [chat for chat in running if len(chat.tokens) == chat.end]:
            running.remove(chat)
            pool.release(chat)
        for number, (arrival, question, answer) in enumerate(CHATS):
            if arrival == now:
                prompt = OPENING + question
                chat = Chat(number, list(range(OPENING)), prompt, prompt + answer)
                chat.tokens += (chat.next_token() + i for i in range(question))
                waiting.append(chat)
        grown = [chat for chat in running if pool.grow(chat)]
        for chat in grown:
            chat.tokens.append(chat.next_token())
        while waiting and pool.admit(waiting[0], len(running)):
            running.append(waiting.pop(0))
    return pool.slots(running), len(running), len(waiting)


def sentence(name: str, slots: list[Slot], running: int, waiting: int) -> str:
    """One pool in words."""
    count = Counter(slot.kind for slot in slots)
    held = sum(len(slot.owners) for slot in slots if slot.kind == "token")
    parts = [f"{running} running, {waiting} waiting; {held} tokens"]
    if held > count["token"]:
        parts[0] += f" in {count['token']} slots"
    parts += [f"{count[kind]} {kind}" for kind in ("idle", "cached", "free") if count[kind]]
    if name == "slabs" and count["free"]:
        holes = "".join("." if slot.kind == "free" else " " for slot in slots).split()
        parts[-1] += f" (the longest hole {max(map(len, holes))})"
    return f"{name}: {', '.join(parts)}"


def both(step: int, block_size: int) -> dict[str, list[Slot]]:
    """Each pool's slots, under the sentence that describes it."""
    pools: dict[str, Any] = {"slabs": Slabs(), f"blocks of {block_size}": Blocks(block_size)}
    played = {name: play(pool, step) for name, pool in pools.items()}
    return {sentence(name, *state): state[0] for name, state in played.items()}


def describe(step: int, block_size: int) -> str:
    """What the two pools hold after a step."""
    words = (f"{words[0].upper()}{words[1:]}." for words in both(step, block_size))
    return f"Step {step}. {' '.join(words)}"


def draw(step: int, block_size: int) -> "Figure":
    """Both pools, slot by slot: a colour and a letter for each chat."""
    from matplotlib.patches import Rectangle

    figure, panels = canvas(7.5, 3.3, rows=2)
    for axes, (words, slots) in zip(panels, both(step, block_size).items(), strict=True):
        for i, slot in enumerate(slots):
            draw_slot(axes, i % ROW, i // ROW, slot)
        size = block_size if words.startswith("blocks") else ROW
        for start in range(0, SLOTS, size):
            x, y = start % ROW, start // ROW
            frame = Rectangle((x, 1.3 * y), min(size, ROW), 1, fill=False, edgecolor=INK)
            axes.add_patch(frame)
        axes.set(xlim=(-0.2, ROW + 0.2), ylim=(2.4, -0.1), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(words, loc="left", fontsize=10)
    figure.suptitle(f"step {step}", x=0.02, ha="left", fontsize=10.5)
    return figure


def draw_slot(axes: Any, x: int, y: int, slot: Slot) -> None:
    """One slot; those of several owners have a stripe for each."""
    from matplotlib.patches import Rectangle

    top = 1.3 * y
    axes.add_patch(Rectangle((x, top), 1, 1, facecolor=CARD, edgecolor="#d8dbdf", linewidth=0.5))
    if slot.kind == "cached":
        axes.add_patch(Rectangle((x, top), 1, 1, facecolor="#d8dbdf", edgecolor=CARD))
    if slot.kind == "idle":
        colour = PALETTE[COLOURS[slot.owners[0]]]
        axes.add_patch(Rectangle((x + 0.12, top + 0.12), 0.76, 0.76, fill=False, edgecolor=colour))
    if slot.kind == "token":
        height = 1 / len(slot.owners)
        for i, owner in enumerate(slot.owners):
            colour = PALETTE[COLOURS[owner]]
            axes.add_patch(Rectangle((x, top + i * height), 1, height, facecolor=colour))
        if len(slot.owners) == 1:
            name, ink = "ABCDEF"[slot.owners[0]], "white" if slot.owners[0] == 0 else INK
            axes.text(x + 0.5, top + 0.52, name, ha="center", va="center", fontsize=8, color=ink)
    elif slot.kind == "free":
        axes.text(x + 0.5, top + 0.5, "·", ha="center", va="center", fontsize=8, color=SOFT)
