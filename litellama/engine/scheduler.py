"""The scheduler: which requests advance in the next step, and by how many tokens.

One rule covers prefill, chunked prefill and decode (continuous batching): a request advances by as
many of its uncomputed tokens as the step's token budget allows.  Running requests go first, in
order of arrival; then waiting ones are admitted, first come first served.  Nobody is admitted
behind a prompt that is not finished, so only the last of the running requests can have one:
decodes, one token each, come before it, and a long prompt never holds up a running stream.

When the pool runs out, the request that arrived last is preempted: its blocks are released, and its
tokens are computed again later, from its own published blocks if they are still there.  So the
running requests are always the oldest ones, the oldest of all advances in every step, and each is
the oldest some day: nobody starves.

A step can be scheduled before the tokens of the step before it are known: a request only needs to
know that a token is pending.  Steps run in the order in which they were scheduled, so a block can
be given away while a step still writes to it: whoever owns it next comes later.

Pure Python, no tensors.  Sources: Yu et al., "Orca", OSDI 2022 (continuous batching); Agrawal et
al., "Sarathi-Serve", 2024, arXiv:2403.02310 (chunked prefill).  Lesson 16 builds this file.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from litellama.engine.block_manager import BlockManager
from litellama.engine.request import Request


@dataclass(frozen=True)
class Scheduled:
    """One request's share of a step: its tokens from ``start`` to before ``stop``.

    A token at or after len(request.token_ids) is pending: the step before samples it.
    samples: whether the step reaches the last token, so that a next one is sampled.
    num_cached: tokens found in the cache, when the request is admitted in this step.
    copy: (source, target) blocks; the content is copied before anything is written in the step.
    """

    request: Request
    start: int
    stop: int
    samples: bool
    num_cached: int = 0
    copy: tuple[int, int] | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens are computed."""
        return self.stop - self.start

    @property
    def num_output(self) -> int:
        """How many tokens have been generated before the one that is sampled now."""
        return self.stop - len(self.request.prompt_token_ids)

    @property
    def kind(self) -> str:
        """ "decode" for the token after a generated one, else "prefill"; for drawing."""
        return "decode" if self.num_tokens == 1 and self.num_output > 0 else "prefill"


@dataclass(frozen=True)
class Step:
    """What the model computes at once; also the record from which a chart can be drawn.

    preempted: ids of requests that lost their blocks.
    """

    number: int
    scheduled: list[Scheduled]
    preempted: list[int]

    @property
    def num_tokens(self) -> int:
        """How many tokens are computed."""
        return sum(s.num_tokens for s in self.scheduled)

    @property
    def sampling(self) -> list[Scheduled]:
        """Those that get a next token, in order."""
        return [s for s in self.scheduled if s.samples]

    @property
    def copies(self) -> list[tuple[int, int]]:
        """(source, target) blocks to be copied before anything is written."""
        return [s.copy for s in self.scheduled if s.copy]


class Scheduler:
    """Waiting and running requests over one pool of cache blocks.

    max_num_seqs: the most requests in one step.  max_step_tokens: the most tokens in one step, at
    least max_num_seqs.  trace: the last ``trace_steps`` steps.
    """

    def __init__(
        self, manager: BlockManager, max_num_seqs: int, max_step_tokens: int, trace_steps: int = 0
    ) -> None:
        self.manager = manager
        self.max_num_seqs = max_num_seqs
        self.max_step_tokens = max(max_step_tokens, max_num_seqs)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.trace: deque[Step] = deque(maxlen=trace_steps)
        self.num_steps = self.num_preemptions = 0
        self.num_prompt_tokens = self.num_cached_tokens = 0

    def add(self, request: Request) -> None:
        """Queue a request behind all others."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Take a request out, finished or not, and release its blocks."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.manager.release(request.blocks)

    def restart(self, requests: Iterable[Request]) -> None:
        """After a failed step: all requests that are left wait, in this order, with no blocks."""
        self.manager.reset()
        self.running, self.waiting = [], deque(requests)
        for request in self.waiting:
            request.blocks, request.num_computed, request.num_pending = [], 0, 0

    def schedule(self) -> Step | None:
        """The next step, with cache blocks taken for its tokens; None if nothing can advance."""
        self.manager.new_step()
        scheduled: list[Scheduled] = []
        preempted: list[int] = []
        budget = self.max_step_tokens
        for request in list(self.running):
            count = min(request.num_uncomputed, budget)
            if count and self._make_room(request, count, preempted):
                scheduled.append(self._advance(request, count))
                budget -= count
        while budget and (admitted := self._admit(budget)):
            scheduled.append(admitted)
            budget -= admitted.num_tokens
        if not scheduled:
            return None
        step = Step(self.num_steps, scheduled, preempted)
        self.num_steps += 1
        self.trace.append(step)
        return step

    def _make_room(self, request: Request, num_tokens: int, preempted: list[int]) -> bool:
        """Take blocks for a request's next tokens, from the last arrivals if need be; False if that
        cost the request its own."""
        while request.blocks:
            if self.manager.grow(request.blocks, request.num_computed + num_tokens):
                return True
            preempted.append(self._preempt_last().request_id)
        return False

    def _admit(self, budget: int) -> Scheduled | None:
        """Start the request that has waited longest, if there is room for all its tokens.

        One block for each running request stays free, or they would soon preempt it again.
        """
        if not self.waiting or len(self.running) == self.max_num_seqs:
            return None
        request, copy, spare = self.waiting[0], None, len(self.running)
        self._extend_keys(request)
        cached = self.manager.start(request.blocks, request.block_keys, request.length, spare)
        if cached is None:
            return None
        self.running.append(self.waiting.popleft())
        if cached == request.length:  # the last token is computed again, for its logits
            cached -= 1
            copy = self.manager.copy_on_write(request.blocks)
        request.num_computed = cached
        if request.num_cached is None:
            request.num_cached = cached
            self.num_prompt_tokens += request.length
            self.num_cached_tokens += cached
        return self._advance(request, min(request.num_uncomputed, budget), cached, copy)

    def _advance(
        self,
        request: Request,
        num_tokens: int,
        num_cached: int = 0,
        copy: tuple[int, int] | None = None,
    ) -> Scheduled:
        """Count a request's next tokens as computed, and what they sample as pending."""
        start, stop = request.num_computed, request.num_computed + num_tokens
        samples = stop == request.length
        request.num_computed = stop
        request.num_pending += samples
        # Others may use the blocks whose tokens are computed, and known: those have keys.
        self._extend_keys(request)
        self.manager.publish(request.blocks, request.block_keys, request.num_computed)
        return Scheduled(request, start, stop, samples, num_cached, copy)

    def _preempt_last(self) -> Request:
        """Send the request that arrived last back to the head of the queue, without blocks."""
        victim = self.running.pop()
        self.manager.release(victim.blocks)
        victim.num_computed = 0
        self.waiting.appendleft(victim)
        self.num_preemptions += 1
        return victim

    def _extend_keys(self, request: Request) -> None:
        pictures = [(p.start, p.key) for p in request.pictures]
        self.manager.extend_keys(request.block_keys, request.token_ids, pictures)
