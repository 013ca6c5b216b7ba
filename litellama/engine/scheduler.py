"""The scheduler: which requests advance in the next step, and by how many tokens.

One rule covers prefill, chunked prefill and decode: a request advances by as many of its
uncomputed tokens as the step's token budget allows.  Running requests go first, in order of
arrival, then waiting ones are admitted first come first served.  When the pool runs out, the
request that arrived last is preempted: its blocks are freed, and its tokens are computed again
later.  Pure Python, no tensors.  Lesson 16 builds this file.
"""

from collections import deque
from dataclasses import dataclass

from litellama.engine.block_manager import BlockManager
from litellama.engine.request import Request


@dataclass(frozen=True)
class Scheduled:
    """One request's share of a step: its next ``num_tokens`` uncomputed tokens."""

    request: Request
    num_tokens: int

    @property
    def samples(self) -> bool:
        """Whether the step reaches the request's last token, so that a next one is sampled."""
        return self.num_tokens == self.request.num_uncomputed


class Scheduler:
    """Waiting and running requests over one pool of cache blocks.

    max_num_seqs: the most requests in one step.  max_step_tokens: the most tokens in one step.
    """

    def __init__(self, manager: BlockManager, max_num_seqs: int, max_step_tokens: int) -> None:
        self.manager = manager
        self.max_num_seqs, self.max_step_tokens = max_num_seqs, max_step_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preemptions = 0

    def add(self, request: Request) -> None:
        """Queue a request behind all others."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Take a request out, finished or not, and free its blocks."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.manager.release(request.blocks)

    def schedule(self) -> list[Scheduled]:
        """This step's requests, with cache blocks taken for the tokens they will compute."""
        step: dict[Request, int] = {}
        budget = self.max_step_tokens
        preemptions_before = self.num_preemptions
        # Decodes first: one token each, so that a long prompt never holds up a running stream.
        for request in sorted(self.running, key=lambda r: r.num_uncomputed > 1):
            tokens = min(request.num_uncomputed, budget)
            if tokens == 0 or request not in self.running:  # preempted a moment ago
                continue
            while not self.manager.grow(request.blocks, request.num_computed + tokens):
                victim = self._preempt_last()
                budget += step.pop(victim, 0)
                if victim is request:
                    break
            else:
                step[request] = tokens
                budget -= tokens
        if self.num_preemptions == preemptions_before:
            self._admit(step, budget)
        return [Scheduled(request, tokens) for request, tokens in step.items()]

    def _admit(self, step: dict[Request, int], budget: int) -> None:
        """Start waiting requests, in order, while there is budget and room for all their tokens."""
        while self.waiting and budget and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            if not self.manager.grow(request.blocks, len(request.token_ids)):
                return
            self.running.append(self.waiting.popleft())
            step[request] = min(request.num_uncomputed, budget)
            budget -= step[request]

    def _preempt_last(self) -> Request:
        """Send the request that was admitted last back to the head of the queue, without blocks."""
        victim = self.running.pop()
        self.manager.release(victim.blocks)
        victim.num_computed = 0
        self.waiting.appendleft(victim)
        self.num_preemptions += 1
        return victim
