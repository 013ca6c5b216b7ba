"""Request: one prompt on its way through the engine.  Lesson 16 uses this file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from litellama.engine.detokenizer import Detokenizer
from litellama.engine.pictures import Picture
from litellama.sampling import SamplingParams

FinishReason = Literal["stop", "length", "aborted"]


@dataclass(eq=False)
class Request:
    """A prompt, what has been generated from it, and where its keys and values are.

    seed: settled at arrival.  max_length: it ends when it has so many tokens, at the latest.
    pictures: those among the prompt's tokens, in order.
    token_ids: prompt and answer so far.  num_pending: tokens that follow those, sampled by steps
    whose results have not arrived.  num_computed: tokens whose keys and values are in the cache, or
    will be after the steps submitted so far.  blocks: the cache blocks that hold those, in order.
    block_keys: the keys of all its full blocks.  num_cached: tokens found in the cache when it was
    first admitted.  num_decoded: tokens of the prompt, and those of the answer that the detokenizer
    has.  num_taken: characters of the text that somebody has.  error: what made it fail; its
    finish_reason is then "aborted".
    """

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    detokenizer: Detokenizer
    max_length: int
    pictures: Sequence[Picture] = ()
    token_ids: list[int] = field(init=False)
    num_decoded: int = field(init=False)
    num_taken: int = 0
    num_pending: int = 0
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    num_cached: int | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)
        self.num_decoded = len(self.token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        """The tokens generated so far."""
        return self.token_ids[len(self.prompt_token_ids) :]

    @property
    def length(self) -> int:
        """Tokens of prompt and answer, those that have not arrived included."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_uncomputed(self) -> int:
        """Tokens still to be computed: 1 while decoding, 0 when no further token is wanted."""
        return self.length - self.num_computed if self.length < self.max_length else 0
