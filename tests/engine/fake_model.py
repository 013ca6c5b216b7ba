"""A model made of hashes, whose every answer shows whether the engine kept its books right.

The "key and value" of a token is a hash of the one before it, read from the cache through the block
table, and of the token.  The next token is a hash of all of a sequence's entries, read in the same
way.  So a slot that is read before it is written, overwritten while somebody shares it, or not
copied when it should be, changes the answer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litellama.engine import BlockManager
from litellama.engine.request import Request
from litellama.engine.scheduler import Step
from litellama.sampling import SamplingParams

VOCABULARY = 24
EOS = 0


class LetterTokenizer:
    """Token i is the i-th letter."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(ord("a") + i) for i in ids if i != EOS)


def entry(before: int, token: int) -> int:
    return hash((before, token))


def next_token(entries: Sequence[int], seed: int, num_output: int) -> int:
    return hash((tuple(entries), seed, num_output)) % VOCABULARY


def answer(prompt: Sequence[int], params: SamplingParams, seed: int, longest: int) -> list[int]:
    """The tokens that the model generates for a request, worked out with no engine at all."""
    entries, before = [], 0
    for token in prompt:
        before = entry(before, token)
        entries.append(before)
    output: list[int] = []
    stop = params.stop
    while True:
        token = next_token(entries, seed, len(output))
        output.append(token)
        text = LetterTokenizer().decode(output)
        if token == EOS and not params.ignore_eos:
            return output
        if any(s in text for s in stop):
            return output
        if len(output) >= params.max_tokens or len(prompt) + len(output) >= longest:
            return output
        before = entry(before, token)
        entries.append(before)


@dataclass
class Row:
    """What a runner packs for one request when the step is submitted."""

    request: Request
    tokens: list[int | None]  # None: sampled by the step before
    slots: list[int]  # of all its tokens so far
    samples: bool
    num_output: int


class FakeRunner:
    """Runs steps in order: at once, or (``lazy``) only when the result is asked for.

    fail: called with "submit" or "result" and the step; may raise.
    """

    def __init__(self, manager: BlockManager, depth: int = 0, lazy: bool = False) -> None:
        self.manager, self.depth, self.lazy = manager, depth, lazy
        self.memory: list[int | None] = [None] * (manager.num_blocks * manager.block_size)
        self.queue: deque[Callable[[], None]] = deque()
        self.sampled: dict[Request, int] = {}  # by the step that ran last
        self.num_copies = self.num_computed = 0
        self.fail: Callable[[str, Step], None] = lambda where, step: None

    def submit(self, step: Step) -> Callable[[], list[int]]:
        self.fail("submit", step)
        rows = []
        for s in step.scheduled:
            known = s.request.token_ids[s.start : s.stop]
            tokens = [*known, *[None] * (s.num_tokens - len(known))]
            slots = self.manager.slots(s.request.blocks, 0, s.stop)
            rows.append(Row(s.request, tokens, slots, s.samples, s.num_output))
        copies = step.copies
        output: list[int] = []
        self.queue.append(lambda: output.extend(self._run(rows, copies)))
        if not self.lazy:
            self._drain()

        def result() -> list[int]:
            self._drain()
            self.fail("result", step)
            return output

        return result

    def _drain(self) -> None:
        while self.queue:
            self.queue.popleft()()

    def _run(self, rows: list[Row], copies: list[tuple[int, int]]) -> list[int]:
        size, memory = self.manager.block_size, self.memory
        content = [memory[source * size : (source + 1) * size] for source, _ in copies]
        for (_, target), copied in zip(copies, content, strict=True):
            memory[target * size : (target + 1) * size] = copied
        self.num_copies += len(copies)
        for row in rows:
            first = len(row.slots) - len(row.tokens)
            before = self._read(row.slots[first - 1]) if first else 0
            for slot, token in zip(row.slots[first:], row.tokens, strict=True):
                before = entry(before, self.sampled[row.request] if token is None else token)
                memory[slot] = before
            self.num_computed += len(row.tokens)
        sampling = [row for row in rows if row.samples]
        tokens = [
            next_token([self._read(i) for i in row.slots], row.request.seed, row.num_output)
            for row in sampling
        ]
        self.sampled = {row.request: t for row, t in zip(sampling, tokens, strict=True)}
        return tokens

    def _read(self, slot: int) -> int:
        value = self.memory[slot]
        assert value is not None, f"slot {slot} is read before it is written"
        return value
