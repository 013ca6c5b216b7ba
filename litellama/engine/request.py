"""Request: one prompt on its way through the engine."""

from dataclasses import dataclass, field
from typing import Literal

from litellama.engine.detokenizer import Detokenizer
from litellama.sampling import SamplingParams

FinishReason = Literal["stop", "length", "aborted"]


@dataclass(eq=False)
class Request:
    """A prompt, what has been generated from it, and where its keys and values are.

    token_ids: prompt and answer so far.  num_computed: how many of them have their keys and values
    in the cache.  blocks: the cache blocks that hold those, in order.  seed: settled at arrival.
    """

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    detokenizer: Detokenizer
    token_ids: list[int] = field(init=False)
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        """The tokens generated so far."""
        return self.token_ids[len(self.prompt_token_ids) :]

    @property
    def num_output(self) -> int:
        """How many tokens have been generated."""
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose keys and values are still to be computed; 1 while decoding."""
        return len(self.token_ids) - self.num_computed
