"""Token ids to text as they come: never half a character, and no stop string shown.

A character can be spread over several tokens, and a stop string over several more.  The
detokenizer holds back text that is not settled yet: an unfinished character, or an ending that
could still become a stop string.  The pieces it gives out join to exactly the final text.
Lesson 14 uses this file.
"""

from collections.abc import Sequence
from typing import Any

# A UTF-8 character has at most 4 bytes and a token at least one, so a replacement mark that is
# still there after this many tokens stands for bytes that will never be a character.
MAX_TOKENS_PER_CHARACTER = 4
REPLACEMENT = "\ufffd"


class Detokenizer:
    """The text of one answer.

    tokenizer: anything with ``decode(ids, skip_special_tokens=True)``.  context: the prompt's
    tokens; the last few are decoded along, because a tokenizer may treat the first token of a text
    differently (a leading space).
    """

    def __init__(self, tokenizer: Any, context: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._window = list(context[-2 * MAX_TOKENS_PER_CHARACTER :])
        # Tokens of the window whose text is not this answer's, or already in _pending.  A prompt
        # that was cut inside a character leaves it to the answer, whose first tokens complete it.
        whole = self._settled = len(self._window)
        while whole and self._decode(self._window[:whole]).endswith(REPLACEMENT):
            whole -= 1
        if self._settled - whole < MAX_TOKENS_PER_CHARACTER:
            self._settled = whole
        self._pending = ""
        self.text = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take one more token; return the text that is settled by it, often "" or one word."""
        if self.stopped:
            return ""
        self._window.append(token_id)
        before, now = self._decode(self._window[: self._settled]), self._decode(self._window)
        unfinished = len(self._window) - self._settled
        text = self._pending + now[len(before) :]
        complete = not now.endswith(REPLACEMENT) or unfinished >= MAX_TOKENS_PER_CHARACTER
        if not complete and not any(stop in text for stop in self._stop):
            return ""
        self._window = self._window[self._settled :]
        self._settled = len(self._window)
        self._pending = text
        return self._release(self._unstopped())

    def extend(self, token_ids: Sequence[int]) -> str:
        """Take several tokens: the text that ``push`` would give one by one, for less work."""
        window = [*self._window, *token_ids]
        if len(token_ids) > 1 and not self._stop:
            before, now = self._decode(window[: self._settled]), self._decode(window)
            if REPLACEMENT not in now:  # whole characters: nothing to hold back
                self._window = window[-MAX_TOKENS_PER_CHARACTER:]
                self._settled = len(self._window)
                self._pending += now[len(before) :]
                return self._release(len(self._pending))
        return "".join([self.push(token_id) for token_id in token_ids])

    def finish(self) -> str:
        """The rest of the text, once no token will follow.

        Bytes of an unfinished character are left out; ``token_ids`` still has them.
        """
        if self.stopped:
            return ""
        before, now = self._decode(self._window[: self._settled]), self._decode(self._window)
        self._pending += now[len(before) :].rstrip(REPLACEMENT)
        self._window, self._settled = [], 0
        length = self._unstopped()
        return self._release(length if self.stopped else len(self._pending))

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def _unstopped(self) -> int:
        """How much of the pending text can be shown; sets ``stopped`` at a stop string."""
        found = [at for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            return min(found)
        held = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._pending)), held, -1):
                if self._pending.endswith(stop[:size]):
                    held = size
                    break
        return len(self._pending) - held

    def _release(self, length: int) -> str:
        piece, self._pending = self._pending[:length], self._pending[length:]
        self.text += piece
        return piece
