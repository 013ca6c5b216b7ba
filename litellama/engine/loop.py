"""The loop: the one place where requests advance, for offline batches and for streams alike.

Lesson 16 uses this file.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from litellama.engine.block_manager import BlockState
from litellama.engine.detokenizer import Detokenizer
from litellama.engine.pictures import Picture
from litellama.engine.request import FinishReason, Request
from litellama.engine.scheduler import Scheduled, Scheduler, Step
from litellama.sampling import SamplingParams


class StepRunner(Protocol):
    """What computes the steps, in the order in which they are submitted.

    depth: how many steps may be submitted before the tokens of the first have been asked for; 0 on
    a CPU, 1 where the device computes a step while the host prepares the next.
    submit: start a step; the result, when called, waits for it and returns the tokens sampled, one
    for each of ``step.sampling``.  Requests are read during ``submit`` only.
    """

    depth: int

    def submit(self, step: Step) -> Callable[[], list[int]]: ...


@dataclass(frozen=True)
class Stats:
    """Where the engine stands.

    free_blocks: blocks that nobody owns, cached ones included.  prompt_tokens, cached_tokens: of
    all requests admitted so far, and how many of those were found in the cache.
    """

    running: int
    waiting: int
    steps: int
    preemptions: int
    blocks: int
    free_blocks: int
    prompt_tokens: int
    cached_tokens: int


class Engine:
    """Requests in, text out.  ``step`` advances every request that can advance.

    Whoever waits for a request calls ``step`` until it is finished.  That is safe from several
    threads: they take turns, and a step serves all requests, whoever called it.

    A request's tokens do not depend on what else is in the batch, on chunks, on cached blocks or on
    preemption: in float32 they are the same, greedy or with a seed.  In bfloat16 each is right for
    the text before it, but sums in another order round otherwise, so two texts may part where two
    tokens are as good as equal.
    """

    def __init__(
        self,
        runner: StepRunner,
        scheduler: Scheduler,
        tokenizer: Any,
        *,
        eos_token_ids: Collection[int],
        max_seq_len: int,
    ) -> None:
        self.runner, self.scheduler, self.tokenizer = runner, scheduler, tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_seq_len = max_seq_len
        self._ids = itertools.count()
        self._lock, self._next = threading.Lock(), threading.Lock()
        self._live: dict[Request, None] = {}  # those that have not ended, in order of arrival
        self._closed: deque[Request] = deque()  # those that ``abort`` will have ended
        self._inside: set[int] = set()  # the threads that have their turn, or wait for it
        self._in_flight: deque[tuple[Step, Callable[[], list[int]]]] = deque()

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        seed: int,
        pictures: Sequence[Picture] = (),
    ) -> Request:
        """Queue a prompt; its text can be collected with ``take`` as steps are made."""
        detokenizer = Detokenizer(self.tokenizer, prompt, params.stop)
        # A prompt as long as the context still gets one token, which need not be computed itself.
        longest = max(len(prompt) + 1, min(len(prompt) + params.max_tokens, self.max_seq_len))
        with self._turn():
            number = next(self._ids)
            request = Request(number, list(prompt), params, seed, detokenizer, longest, pictures)
            self._live[request] = None
            self.scheduler.add(request)
        return request

    def take(self, request: Request) -> str:
        """The text that has come since the last call."""
        with self._turn():
            self._decode(request)
            text = request.detokenizer.text[request.num_taken :]
            request.num_taken += len(text)
            return text

    def abort(self, request: Request) -> None:
        """End a request now, if it has not ended; what it has so far stays readable.

        The garbage collector may close a forgotten stream in the middle of this thread's own turn;
        such a request ends with the next turn.
        """
        self._closed.append(request)
        if threading.get_ident() not in self._inside:
            with self._turn():
                pass

    def step(self) -> None:
        """Submit the next step, and take in the oldest one if more than ``depth`` are in flight.

        If a step fails, its requests end with the error, and all others go on.
        """
        with self._turn():
            failing: Step | None = None
            try:
                failing = step = self.scheduler.schedule()
                if step is not None:
                    self._in_flight.append((step, self.runner.submit(step)))
                if len(self._in_flight) > (self.runner.depth if step is not None else 0):
                    failing, tokens = self._in_flight.popleft()
                    self._collect(failing, tokens())
            except BaseException as error:
                if failing is not None and isinstance(error, Exception):
                    self._recover(failing.scheduled, error)
                else:  # Ctrl-C: no request is to blame
                    self._recover((), None)
                    raise

    def stats(self) -> Stats:
        """Counts for a display."""
        with self._turn():
            s = self.scheduler
            return Stats(
                running=len(s.running),
                waiting=len(s.waiting),
                steps=s.num_steps,
                preemptions=s.num_preemptions,
                blocks=s.manager.num_blocks,
                free_blocks=s.manager.num_free,
                prompt_tokens=s.num_prompt_tokens,
                cached_tokens=s.num_cached_tokens,
            )

    def snapshot(self) -> list[BlockState]:
        """The state of every block of the KV cache, for drawing."""
        with self._turn():
            tables = {r.request_id: r.blocks for r in self.scheduler.running}
            return self.scheduler.manager.snapshot(tables)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The lock, fairly: a thread that makes step after step lets a waiting one in between."""
        self._inside.add(threading.get_ident())
        with self._next:
            self._lock.acquire()
        try:
            while self._closed:
                request = self._closed.popleft()
                if request.finish_reason is None:
                    self._finish(request, "aborted")
            yield
        finally:
            self._lock.release()
            self._inside.discard(threading.get_ident())

    def _collect(self, step: Step, tokens: list[int]) -> None:
        """Add a step's tokens to its requests; those that ended meanwhile need them no more."""
        for s, token in zip(step.sampling, tokens, strict=True):
            if s.request.finish_reason is None:
                s.request.num_pending -= 1
                self._append(s.request, token)

    def _append(self, request: Request, token: int) -> None:
        """Add a sampled token to a request, and end the request if this was its last."""
        request.token_ids.append(token)
        self._end_if_complete(request)

    def _end_if_complete(self, request: Request) -> None:
        if request.params.stop:
            self._decode(request)  # else when somebody asks for the text, all at once
        if request.finish_reason is not None:
            return  # its text could not be made
        if request.detokenizer.stopped or self._is_eos(request, request.token_ids[-1]):
            self._finish(request, "stop")
        elif len(request.token_ids) >= request.max_length:
            self._finish(request, "length")

    def _is_eos(self, request: Request, token: int) -> bool:
        return token in self.eos_token_ids and not request.params.ignore_eos

    def _finish(self, request: Request, reason: FinishReason) -> None:
        """End a request.  A step in flight may go on writing to its blocks: it comes before any
        step of their next owner."""
        request.finish_reason = reason
        self._live.pop(request, None)
        self.scheduler.remove(request)

    def _decode(self, request: Request) -> None:
        """Make text of the tokens that are none yet.  If that fails, only this request does."""
        tokens = request.token_ids[request.num_decoded :]
        request.num_decoded += len(tokens)
        if tokens and self._is_eos(request, tokens[-1]):
            tokens.pop()
        try:
            request.detokenizer.extend(tokens)
            if request.finish_reason is not None:
                request.detokenizer.finish()
        except Exception as error:
            request.error = request.error or error
            self._finish(request, "aborted")

    def _recover(self, failed: Sequence[Scheduled], error: Exception | None) -> None:
        """End the requests of a failed step, and compute all others anew.

        Ctrl-C can come anywhere, between any two lines: what it left half done is not looked at.
        """
        self._in_flight.clear()
        for s in failed:
            if s.request.finish_reason is None:
                s.request.error = error
                self._finish(s.request, "aborted")
        for request in list(self._live):
            if request.finish_reason is None and request.output_token_ids:
                self._end_if_complete(request)
        self._live = {request: None for request in self._live if request.finish_reason is None}
        self.scheduler.restart(self._live)
