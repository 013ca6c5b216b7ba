"""An engine that says what it is told, slowly: for the page, which cannot tell the difference."""

import time
from collections.abc import Callable
from pathlib import Path

from litellama import LLM
from litellama.engine.scheduler import Step


class Parrot:
    """Computes nothing: every answer is ``text``, a token each ``pause`` seconds."""

    depth = 0

    def __init__(self, llm: LLM, text: str, pause: float) -> None:
        self.pause = pause
        self.ids = [*llm.tokenizer.encode(text), next(iter(llm.engine.eos_token_ids))]

    def submit(self, step: Step) -> Callable[[], list[int]]:
        time.sleep(self.pause)
        tokens = [self.ids[min(s.num_output, len(self.ids) - 1)] for s in step.sampling]
        return lambda: tokens


def parrot(folder: str | Path, text: str, pause: float = 0.02) -> LLM:
    """The engine of a checkpoint, with a parrot in the model's place."""
    llm = LLM(folder, device="cpu", dtype="float32", block_size=16)
    llm.engine.runner = Parrot(llm, text, pause)
    return llm
