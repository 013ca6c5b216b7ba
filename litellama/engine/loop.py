"""The loop: the one place where requests advance, for offline batches and for streams alike."""

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from litellama.engine.block_manager import BlockManager
from litellama.engine.detokenizer import Detokenizer
from litellama.engine.request import FinishReason, Request
from litellama.engine.runner import Runner
from litellama.engine.scheduler import Scheduler
from litellama.models.decoder import Decoder
from litellama.sampling import SamplingParams


class Engine:
    """Requests in, text out.  ``step`` advances every request that can advance.

    Whoever waits for a request calls ``step`` until it is finished; a lock makes that safe from
    several threads, and a step serves all requests, whoever called it.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Any,
        *,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_step_tokens: int,
        max_seq_len: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len
        self.eos_token_ids = frozenset(model.config.eos_token_ids)
        self.manager = BlockManager(num_blocks, block_size)
        self.scheduler = Scheduler(self.manager, max_num_seqs, max(max_step_tokens, max_num_seqs))
        self.runner = Runner(model, self.manager)
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._pieces: dict[Request, list[str]] = {}

    def submit(self, prompt: Sequence[int], params: SamplingParams, seed: int) -> Request:
        """Queue a prompt; its text can be collected with ``take`` as steps are made."""
        detokenizer = Detokenizer(self.tokenizer, prompt, params.stop)
        request = Request(next(self._ids), list(prompt), params, seed, detokenizer)
        with self._lock:
            self._pieces[request] = []
            self.scheduler.add(request)
        return request

    def take(self, request: Request) -> str:
        """The text that has come since the last call."""
        with self._lock:
            pieces = self._pieces.get(request, [])
            text = "".join(pieces)
            pieces.clear()
            if request.finish_reason is not None:
                self._pieces.pop(request, None)
            return text

    def abort(self, request: Request) -> None:
        """End a request now, if it has not ended; what it has so far stays readable."""
        with self._lock:
            if request.finish_reason is None:
                self._finish(request, "aborted")

    def step(self) -> None:
        """Advance one step.  If it fails, its requests end as aborted and the error is raised."""
        with self._lock:
            scheduled = self.scheduler.schedule()
            if not scheduled:
                return
            try:
                tokens = self.runner.run(scheduled)
            except Exception:
                for s in scheduled:
                    self._finish(s.request, "aborted")
                raise
            sampling = [s.request for s in scheduled if s.samples]
            for s in scheduled:
                s.request.num_computed += s.num_tokens
            for request, token in zip(sampling, tokens, strict=True):
                self._append(request, token)

    def _append(self, request: Request, token: int) -> None:
        """Add a sampled token to a request, and end the request if this was its last."""
        request.token_ids.append(token)
        params = request.params
        if token in self.eos_token_ids and not params.ignore_eos:
            self._finish(request, "stop")
            return
        self._pieces[request].append(request.detokenizer.push(token))
        if request.detokenizer.stopped:
            self._finish(request, "stop")
        elif request.num_output >= params.max_tokens or len(request.token_ids) >= self.max_seq_len:
            self._finish(request, "length")

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        self._pieces[request].append(request.detokenizer.finish())
        self.scheduler.remove(request)
