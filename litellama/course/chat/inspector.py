"""One token of an answer, and what else could have stood in its place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from litellama.course.chat.conversation import Exchange
from litellama.errors import ConversationError
from litellama.sampling import Candidate, candidates

if TYPE_CHECKING:
    from litellama import LLM

SHOWN = 10


@dataclass(frozen=True)
class Inspection:
    """The likeliest candidates of a token's place, the likeliest first, and the drawn one.

    rank: the place of the drawn token among all candidates, 0 the likeliest; it is the last of
    ``rows`` when it was not among the likeliest ``SHOWN``.  kept: how many candidates could be
    drawn, once temperature, top-k, top-p and min-p had their say.  total: all of them.
    """

    rows: list[Candidate]
    drawn: int
    rank: int
    kept: int
    total: int


def inspect(llm: "LLM", exchange: Exchange, index: int) -> Inspection:
    """What could have been the ``index``-th token of an answer; ConversationError if it has none.

    The prompt and the answer up to there are computed again, on a cache of their own.
    """
    if not 0 <= index < len(exchange.answer_ids) or exchange.params is None:
        raise ConversationError(f"the answer has no token {index} whose candidates are known")
    drawn, text = exchange.answer_ids[index], exchange.prompt_ids + exchange.answer_ids[:index]
    logits = llm.logits(text, exchange.images or None, last=1)[-1]
    prompt_len = len(exchange.prompt_ids)
    ranked = candidates(logits, exchange.params, len(logits), text, prompt_len)
    rank = next(i for i, c in enumerate(ranked) if c.token_id == drawn)
    rows = ranked[:SHOWN] + ([ranked[rank]] if rank >= SHOWN else [])
    return Inspection(rows, drawn, rank, sum(c.chance > 0 for c in ranked), len(ranked))
