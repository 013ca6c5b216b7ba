"""`litellama chat` with an engine whose answers are known, for tests on a pseudo-terminal.

Run as a program it takes its standard input as its controlling terminal, so that Ctrl-C typed
there becomes a signal, as in a real terminal.
"""

import dataclasses
import time
from collections.abc import Generator, Sequence

from litellama import SamplingParams


@dataclasses.dataclass
class FakeOutput:
    token_ids: list[int]
    finish_reason: str


class FakeConfig:
    vision = None


class FakeTokenizer:
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [len(word) for word in text.split()]


class FakeLLM:
    """One token a word.  "count" is answered by counting slowly, anything else by the history."""

    def __init__(self, max_seq_len: int = 60, pause: float = 0.0) -> None:
        self.max_seq_len, self.pause = max_seq_len, pause
        self.tokenizer = FakeTokenizer()
        self.config = FakeConfig()
        self.closed = 0
        self.messages: list[dict[str, str]] = []

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        self.messages = list(messages)
        return [0] * sum(len(message["content"].split()) for message in messages)

    def stream(
        self, ids: list[int], params: SamplingParams, images: Sequence[object] = ()
    ) -> Generator[str, None, FakeOutput]:
        text = " | ".join(f"{m['role']}: {m['content']}" for m in self.messages)
        if self.messages[-1]["content"] == "count":
            text = " ".join(f"number{n}" for n in range(1, 500))
        made = 0
        try:
            for word in text.split()[: params.max_tokens]:
                yield word + " "
                made += 1
                time.sleep(self.pause)
        finally:
            self.closed += 1
        return FakeOutput([0] * made, "stop" if made == len(text.split()) else "length")


if __name__ == "__main__":
    import fcntl
    import sys
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    from litellama.cli import app, options

    options.load = lambda model, device, dtype: FakeLLM(pause=0.05)  # type: ignore[assignment]
    app(["chat", *sys.argv[1:]])
