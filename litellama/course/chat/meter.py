"""What there is to measure about an answer while it comes: times, tokens, and cache blocks."""

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litellama.engine.request import Request


@dataclass
class Meter:
    """The times and the cache blocks of one answer.

    started, first, last: seconds of a clock, when it was asked for, when its first piece came and
    when its last one did.  prompt_tokens, cached_tokens: of the prompt, and how many of those were
    found in the cache.  tokens: generated so far.  computed: tokens whose keys and values are
    in the cache.  blocks: of this conversation; block_size: tokens in one.
    """

    block_size: int
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    computed: int = 0
    blocks: int = 0

    def read(self, request: "Request") -> None:
        """Take the state of a request that has made a step."""
        self.last = time.perf_counter()
        self.tokens = len(request.output_token_ids)
        if self.first is None and self.tokens:
            self.first = self.last
        self.prompt_tokens = len(request.prompt_token_ids)
        self.cached_tokens = request.num_cached or 0
        if request.blocks:  # they are given back when it ends; the last state stays for the reader
            self.computed, self.blocks = request.num_computed, len(request.blocks)

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token."""
        return None if self.first is None else self.first - self.started

    @property
    def rate(self) -> float | None:
        """Tokens a second after the first one."""
        if self.first is None or self.last is None or self.tokens < 2 or self.last == self.first:
            return None
        return (self.tokens - 1) / (self.last - self.first)

    def fills(self) -> list[tuple[int, int, int]]:
        """For each block of the conversation, in the order of its text, how many of its tokens
        came from the cache, were computed of the prompt, and were computed of the answer."""
        ends = (self.cached_tokens, self.prompt_tokens, max(self.computed, self.prompt_tokens))
        fills = []
        for start in range(0, self.blocks * self.block_size, self.block_size):
            stop = min(start + self.block_size, self.computed)
            marks = [start, *(min(max(end, start), stop) for end in ends)]
            fills.append(tuple(b - a for a, b in pairwise(marks)))
        return fills  # type: ignore[return-value]
