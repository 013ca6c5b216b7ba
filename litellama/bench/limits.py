"""What decoding cannot beat: the bytes that each step must read, at the memory's speed.

A step reads every weight once, however many sequences it serves, and each sequence reads the keys
and values of all its tokens so far.  Arithmetic and the prompts are left out, so the limit is a
little higher than what any engine can reach.
"""

from collections.abc import Sequence

from litellama.engine import memory
from litellama.llm import LLM
from litellama.models import decoder_of


def weight_bytes(llm: LLM) -> int:
    """Bytes of weights that one decode step reads: all but an embedding that only looks rows up."""
    decoder = decoder_of(llm.model)  # what sees pictures has done its work before
    total = memory.weight_bytes(decoder)
    return total if decoder.lm_head is None else total - decoder.embed_tokens.nbytes


def kv_bytes_per_token(llm: LLM) -> int:
    """Bytes of keys and values that one token leaves in the cache."""
    return llm.config.kv_bytes_per_token(llm.dtype.itemsize)


def mean_context(prompt_tokens: int, new_tokens: int) -> float:
    """Keys that a sequence's decode step reads, on average.

    The prompt's step gives the first new token; the steps of the others, i = 1 .. new_tokens - 1,
    each see the prompt and i new tokens.
    """
    return prompt_tokens + new_tokens / 2


def step_bytes(
    weights: int, kv_per_token: int, batch: int, prompt_tokens: int, new_tokens: int
) -> float:
    """Bytes that a decode step of ``batch`` equal sequences reads, on average."""
    return weights + batch * kv_per_token * mean_context(prompt_tokens, new_tokens)


def serving_bytes(
    weights: int, kv_per_token: int, lengths: Sequence[tuple[int, int]], max_num_seqs: int
) -> float:
    """Bytes that must be read to answer requests of (prompt, new) tokens, all there at the start.

    There are at least as many steps as the longest answer has tokens, and enough of them to make
    all tokens at ``max_num_seqs`` a step.
    """
    new = [answer for _, answer in lengths]
    steps = max(max(new), -(-sum(new) // max_num_seqs))
    keys = sum((n - 1) * mean_context(prompt, n) for prompt, n in lengths)
    return steps * weights + kv_per_token * keys
