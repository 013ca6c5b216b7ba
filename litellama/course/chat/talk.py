"""A conversation with the engine: an answer comes on a thread of its own, and can be stopped.

Several conversations may use one engine at once: a step that one of them makes serves them all.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litellama.cli.chat import Conversation, with_images
from litellama.cli.options import TEMPERATURE, TOP_P
from litellama.course.chat.conversation import Exchange
from litellama.course.chat.meter import Meter
from litellama.errors import ConversationError
from litellama.sampling import SamplingParams

if TYPE_CHECKING:
    from PIL.Image import Image

    from litellama import LLM
    from litellama.engine.request import Request

OFTEN = 0.1  # seconds between two looks at an answer that comes


class Talk:
    """The exchanges so far, and the one that is being answered.

    llm: who answers, or None while no model is loaded.  changed: called when there is something new
    to show, from whatever thread it happened on.
    """

    def __init__(self, llm: "LLM | None", changed: Callable[[], None]) -> None:
        self.llm, self.changed = llm, changed
        self.system = ""
        self.params = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, max_tokens=256)
        self.exchanges: list[Exchange] = []
        self._lock = threading.RLock()
        self._request: Request | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is coming."""
        return self._request is not None

    def send(self, text: str, pictures: Sequence["Image"] = ()) -> None:
        """Ask, and return at once; the answer comes on a thread of its own.

        ConversationError or RequestError, with nothing changed, if that cannot be.
        """
        with self._lock:
            self._be_idle()
            if not text.strip():
                raise ConversationError("The message is empty: write something first.")
            self._start(Exchange(text, list(pictures)), self.exchanges)

    def edit_last(self, text: str) -> None:
        """Put another message in the place of the last one, and have it answered."""
        with self._lock:
            self._be_idle()
            if not self.exchanges:
                raise ConversationError("There is no message to edit yet.")
            if not text.strip():
                raise ConversationError("The message is empty: write something first.")
            again = Exchange(text, self.exchanges[-1].pictures)
            self._start(again, self.exchanges[:-1])

    def regenerate(self) -> None:
        """Have the last message answered once more."""
        with self._lock:
            self._be_idle()
            if not self.exchanges:
                raise ConversationError("There is no answer to make again yet.")
            last = self.exchanges[-1]
            self._start(Exchange(last.question, last.pictures), self.exchanges[:-1])

    def stop(self) -> None:
        """End the answer that is coming, if any; what was said of it stays."""
        request, llm = self._request, self.llm
        if request is not None and llm is not None:
            llm.engine.abort(request)

    def clear(self) -> None:
        """Forget everything that was said."""
        self.stop()
        self.wait()
        with self._lock:
            self.exchanges = []
        self.changed()

    def replace_all(self, system: str, exchanges: list[Exchange]) -> None:
        """Go on with another conversation."""
        with self._lock:
            self._be_idle()
            self.system, self.exchanges = system, exchanges
        self.changed()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no answer is coming; False if that takes longer than ``seconds``."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
            return not thread.is_alive()
        return True

    def _be_idle(self) -> None:
        if self.busy:
            raise ConversationError("An answer is still coming: stop it first, or wait.")
        if self.llm is None:
            raise ConversationError("No model is loaded yet: choose one in the settings.")

    def _start(self, exchange: Exchange, before: list[Exchange]) -> None:
        """Submit the prompt of an exchange that follows those ``before``."""
        assert self.llm is not None
        llm = self.llm
        ids, exchange.images, dropped = self._prompt(llm, [*before, exchange])
        exchange.model = llm.name
        # Settled here and not in the engine, so that it can be shown and used again.
        seed = random.getrandbits(31) if self.params.seed is None else self.params.seed
        exchange.params = replace(self.params, seed=seed)
        exchange.meter = Meter(llm.engine.scheduler.manager.block_size)
        request = llm.submit(ids, exchange.params, exchange.images)
        exchange.prompt_ids = request.prompt_token_ids
        if dropped:
            exchange.note = f"The context is full: the oldest {dropped} exchange(s) were left out."
        self.exchanges = [*before, exchange]
        self._request = request
        self._thread = threading.Thread(
            target=self._answer, args=(llm, exchange, request), name="chat answer", daemon=True
        )
        self._thread.start()

    def _prompt(self, llm: "LLM", exchanges: list[Exchange]) -> tuple[list[int], list[Any], int]:
        """The prompt and its pictures, and how many of the oldest exchanges it had to leave out."""
        conversation = Conversation(llm, self.params, self.system.strip() or None)
        for exchange in exchanges:
            asked = with_images(exchange.question, len(exchange.pictures))
            conversation.messages.append({"role": "user", "content": asked})
            conversation.messages.append({"role": "assistant", "content": exchange.answer})
            conversation.images += exchange.pictures
        conversation.messages.pop()  # the answer that is to come
        ids, dropped = conversation.prompt()
        return ids, conversation.images, dropped

    def _answer(self, llm: "LLM", exchange: Exchange, request: "Request") -> None:
        """Follow a request to its end, and let the page know from time to time."""
        meter, shown = exchange.meter, 0.0
        assert meter is not None
        self.changed()
        try:
            pieces = llm.follow(request)
            while True:
                exchange.answer += next(pieces)
                meter.read(request)
                exchange.answer_ids = request.output_token_ids
                if time.perf_counter() - shown > OFTEN:
                    self.changed()
                    shown = time.perf_counter()
        except StopIteration as end:  # also after ``stop``
            exchange.status = end.value.finish_reason
        except Exception as error:  # whatever it is, the conversation can go on
            exchange.status, exchange.note = "failed", f"The answer failed: {error}"
        exchange.answer_ids = request.output_token_ids
        meter.tokens = len(exchange.answer_ids)
        self._request = None
        self.changed()
