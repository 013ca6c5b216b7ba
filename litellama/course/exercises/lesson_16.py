"""Exercises of lesson 16: what a step costs, who gets its tokens, who gives way, and a contest."""

import functools
from collections.abc import Callable, Mapping, Sequence

from litellama.course import contest
from litellama.course.contest import Job, State
from litellama.course.exercise import Case, Exercise, Mistake

LESSON = "16_continuous_batching"


# --- step_work -----------------------------------------------------------------------------------

Parts = tuple[tuple[int, int], ...]


def step_work(parts: Parts, num_weights: int, element_size: int, kv_bytes: int) -> tuple[int, int]:
    keys = sum(stop for _, stop in parts)
    tokens = sum(stop - start for start, stop in parts)
    return num_weights * element_size + kv_bytes * keys, 2 * num_weights * tokens


def _worked(weights=None, keys=None, flops=None):
    """The two numbers with one of the formulas replaced."""

    def work(parts, num_weights, element_size, kv_bytes):
        read = weights(parts, num_weights, element_size) if weights else num_weights * element_size
        looked_at = sum(keys(*part) if keys else part[1] for part in parts)
        tokens = sum(stop - start for start, stop in parts)
        multiplied = flops(parts, tokens) * num_weights if flops else 2 * num_weights * tokens
        return read + kv_bytes * looked_at, multiplied

    return work


def _step(label: str, *parts: tuple[int, int], sizes: tuple[int, int, int]) -> Case:
    return Case(label, lambda m: (parts, *sizes))


_SMOL, _LARGE = (134_515_008, 4, 46_080), (7_504_924_672, 2, 131_072)

STEP_WORK = Exercise(
    name="step_work",
    lesson=LESSON,
    title="What a step costs",
    difficulty=2,
    minutes=15,
    reference=step_work,
    outputs=("bytes_read", "flops"),
    cases=(
        _step("one prompt of 5", (0, 5), sizes=(10, 2, 8)),
        _step("three decodes", (5, 6), (17, 18), (9, 10), sizes=_SMOL),
        _step("two decodes and a piece of a prompt", (99, 100), (7, 8), (64, 126), sizes=_LARGE),
        _step("two prompts", (0, 30), (0, 12), sizes=_SMOL),
        _step("a prompt of which 32 tokens were cached", (32, 40), sizes=_LARGE),
    ),
    mistakes=(
        Mistake(
            "weights for each request",
            _worked(weights=lambda parts, n, size: n * size * len(parts)),
            "the weights are read once for each request. All requests of a step share one reading; "
            "that is why they are put together.",
        ),
        Mistake(
            "elements for bytes",
            _worked(weights=lambda parts, n, size: n),
            "the weights are counted as numbers: each has element_size bytes.",
        ),
        Mistake(
            "new keys only",
            _worked(keys=lambda start, stop: stop - start),
            "only the new tokens' keys are counted. A new token looks at all keys before it, so "
            "those of tokens 0 to stop - 1 are read.",
        ),
        Mistake(
            "own keys forgotten",
            _worked(keys=lambda start, stop: start),
            "only the keys before the new tokens are counted. They look at their own keys, too: "
            "stop keys.",
        ),
        Mistake(
            "keys for each token",
            _worked(keys=lambda start, stop: sum(range(start + 1, stop + 1))),
            "the keys are read once for each new token. The new tokens of a request go through "
            "attention together and read them once.",
        ),
        Mistake(
            "multiplications without additions",
            _worked(flops=lambda parts, tokens: tokens),
            "each weight is multiplied, and the product is added: two operations for each weight "
            "and token.",
        ),
        Mistake(
            "one token each",
            _worked(flops=lambda parts, tokens: 2 * len(parts)),
            "the FLOPs are those of one token for each request. A piece of a prompt has "
            "stop - start tokens, and each goes through all weights.",
        ),
        Mistake(
            "all tokens computed again",
            _worked(flops=lambda parts, tokens: 2 * sum(stop for _, stop in parts)),
            "the FLOPs count the tokens before start as well: those are in the cache. New are "
            "stop - start.",
        ),
    ),
    hints=(
        "What is read once, whoever is in the step? And what belongs to each request?",
        "A request whose new tokens are start to stop - 1 reads the keys and values of stop tokens "
        "and computes stop - start.",
        "Each weight is used once for each new token: a multiplication and an addition.",
        "bytes_read = num_weights * element_size + kv_bytes * (sum of stop); "
        "flops = 2 * num_weights * (sum of stop - start)",
    ),
)


# --- share_budget --------------------------------------------------------------------------------

Counts = tuple[int, ...]


def share_budget(running: Counts, waiting: Counts, budget: int, seats: int) -> Counts:
    shares = []
    for seat, uncomputed in enumerate((*running, *waiting)):
        shares.append(min(uncomputed, budget) if seat < seats else 0)
        budget -= shares[-1]
    return tuple(shares)


def _whole_prompts(overtaking):
    def share(running, waiting, budget, seats):
        shares, closed = [], False
        for seat, uncomputed in enumerate((*running, *waiting)):
            fits = seat < seats and uncomputed <= budget and not closed
            shares.append(uncomputed if fits else 0)
            closed = closed or (not fits and not overtaking)
            budget -= shares[-1]
        return tuple(shares)

    return share


def _prompts_first(running, waiting, budget, seats):
    everyone = (*running, *waiting)[:seats]
    shares = [0] * (len(running) + len(waiting))
    for i in sorted(range(len(everyone)), key=lambda i: everyone[i] == 1):
        shares[i] = min(everyone[i], budget)
        budget -= shares[i]
    return tuple(shares)


def _budget_each(running, waiting, budget, seats):
    return tuple(
        min(uncomputed, budget) * (seat < seats)
        for seat, uncomputed in enumerate((*running, *waiting))
    )


def _decodes_free(running, waiting, budget, seats):
    return share_budget(running, waiting, budget + running.count(1), seats)


def _waiting_first(running, waiting, budget, seats):
    shares = share_budget(waiting, running, budget, seats)
    return (*shares[len(waiting) :], *shares[: len(waiting)])


def _decodes_only(running, waiting, budget, seats):
    """Each running request gets one token, also one whose prompt is not finished."""
    return share_budget((1,) * len(running), waiting, budget, seats)


def _no_seats(running, waiting, budget, seats):
    return share_budget(running, waiting, budget, 10**6)


def _equal_shares(running, waiting, budget, seats):
    return _budget_each(running, waiting, budget // min(len(running) + len(waiting), seats), seats)


def _five(label: str, running: Counts, waiting: Counts, budget: int, seats: int) -> Case:
    return Case(label, lambda m: (running, waiting, budget, seats))


SHARE_BUDGET = Exercise(
    name="share_budget",
    lesson=LESSON,
    title="A step's tokens",
    difficulty=3,
    minutes=20,
    reference=share_budget,
    outputs=("A", "B", "C", "D", "E"),
    cases=(
        _five("three decodes, then a long prompt", (1, 1, 1), (20, 5), 16, 8),
        _five("an unfinished prompt, and others wait", (1, 1, 30), (4, 4), 16, 8),
        _five("five prompts, three seats", (), (5, 3, 9, 2, 7), 16, 3),
        _five("more budget than work", (1, 1), (3, 4, 2), 64, 4),
        _five("the prompt ends in this step", (1, 1, 6), (8, 2), 17, 5),
    ),
    mistakes=(
        Mistake(
            "whole prompts",
            _whole_prompts(overtaking=False),
            "a prompt that does not fit the rest of the budget gets nothing. It gets the rest: it "
            "can be computed in pieces.",
        ),
        Mistake(
            "overtaking",
            _whole_prompts(overtaking=True),
            "a prompt that does not fit is passed over, and shorter ones behind it go first. It "
            "gets the rest of the budget, and nobody overtakes it.",
        ),
        Mistake(
            "prompts first",
            _prompts_first,
            "prompts are served before decodes, and so a long one stalls the running streams. Go "
            "through the running requests first, in their order.",
        ),
        Mistake(
            "budget for each",
            _budget_each,
            "every request gets up to the whole budget. It is the step's: take off what has been "
            "given away.",
        ),
        Mistake(
            "decodes not counted",
            _decodes_free,
            "the tokens of decodes are not taken off the budget. They are computed like the "
            "others, and count.",
        ),
        Mistake(
            "seats ignored",
            _no_seats,
            "more than `seats` requests are in the step. Those that run have a seat each; admit "
            "only as many as are left.",
        ),
        Mistake(
            "equal shares",
            _equal_shares,
            "everybody gets the same share of the budget. First come, first served: the first of "
            "the line gets all that it can use.",
        ),
        Mistake(
            "waiting first",
            _waiting_first,
            "those that wait are served before those that run, whose streams stall. Go through the "
            "running requests first, then the waiting ones.",
        ),
        Mistake(
            "one token for each that runs",
            _decodes_only,
            "every running request gets one token. The last of them may still be at its prompt, "
            "and takes what it has uncomputed, as far as the budget goes.",
        ),
    ),
    hints=(
        "One rule serves running and waiting requests alike, one after the other.",
        "A request gets min(what it has uncomputed, what is left of the budget).",
        "The i-th request of the line has a seat if i < seats.",
        "for seat, uncomputed in enumerate((*running, *waiting)): "
        "share = min(uncomputed, budget) if seat < seats else 0; budget -= share",
    ),
)


# --- make_room -----------------------------------------------------------------------------------


def make_room(owned: Counts, missing: Counts, free: int) -> tuple[int, int, int]:
    return _made_room()(owned, missing, free)


def _made_room(
    victim: Callable[[list[int], int, Sequence[int]], int] = lambda alive, i, held: alive[-1],
    returns: bool = True,
    everyone: bool = False,
):
    """The rule with slips: who is preempted, whether blocks return, whether all younger ones go."""

    def make(owned, missing, free):
        held, alive = list(owned), list(range(len(owned)))
        advanced: list[int] = []
        for i in range(len(owned)):
            short = i in alive and missing[i] > free
            while i in alive and (missing[i] > free or (short and everyone and alive[-1] > i)):
                lost = victim(alive, i, held)
                alive.remove(lost)
                advanced = [other for other in advanced if other != lost]
                free += held[lost] * returns
            if i in alive:
                free, held[i] = free - missing[i], held[i] + missing[i]
                advanced.append(i)
        return len(advanced), len(owned) - len(alive), free

    return make


def _one_victim(owned, missing, free):
    """``if`` for ``while``: at most one request gives way for each that asks."""
    alive, advanced = len(owned), 0
    for i, more in enumerate(missing):
        if i < alive and more > free:
            alive -= 1
            free += owned[alive]
        if i < alive and more <= free:
            free, advanced = free - more, advanced + 1
    return advanced, len(owned) - alive, free


def _youngest_stays(owned, missing, free):
    """One that nobody is left to give way for is passed over, and keeps its blocks."""
    alive, advanced = len(owned), 0
    for i, more in enumerate(missing):
        while i < alive - 1 and more > free:
            alive -= 1
            free += owned[alive]
        if i < alive and more <= free:
            free, advanced = free - more, advanced + 1
    return advanced, len(owned) - alive, free


def _missing_returned(owned, missing, free):
    return make_room(tuple(map(sum, zip(owned, missing, strict=True))), missing, free)


def _nobody(owned, missing, free):
    advanced = 0
    for more in missing:
        if more <= free:
            free, advanced = free - more, advanced + 1
    return advanced, 0, free


def _blocks(label: str, owned: Counts, missing: Counts, free: int) -> Case:
    return Case(label, lambda m: (owned, missing, free))


MAKE_ROOM = Exercise(
    name="make_room",
    lesson=LESSON,
    title="Who gives way",
    difficulty=3,
    minutes=20,
    reference=make_room,
    outputs=("advanced", "preempted", "free_left"),
    cases=(
        _blocks("one block for three", (4, 3, 2), (1, 1, 1), 1),
        _blocks("two blocks for three", (4, 3, 2), (1, 1, 1), 2),
        _blocks("two have to go for the first", (5, 1, 1, 1), (2, 1, 0, 0), 0),
        _blocks("room for all", (3, 2, 4), (0, 1, 1), 3),
        _blocks("the largest is not the last", (2, 6, 1, 1), (1, 0, 1, 1), 1),
        _blocks("one that gives way is enough", (3, 2, 2, 2), (1, 0, 1, 0), 0),
    ),
    mistakes=(
        Mistake(
            "oldest preempted",
            _made_room(lambda alive, i, held: alive[0]),
            "the oldest request is preempted, and its work with it. Then nobody is sure ever to "
            "end. The youngest that still runs gives way.",
        ),
        Mistake(
            "largest preempted",
            _made_room(lambda alive, i, held: max(alive, key=lambda j: held[j])),
            "the request with the most blocks is preempted. It may be the oldest, and it has most "
            "to compute again. The youngest that still runs gives way.",
        ),
        Mistake(
            "the asking one preempted",
            _made_room(lambda alive, i, held: i),
            "the request that asks for a block is the one that loses its own. Only when it is "
            "itself the youngest: before that, those that came after it give way.",
        ),
        Mistake(
            "nobody preempted",
            _nobody,
            "a request that finds no block is left out, and keeps what it has. Nobody gives "
            "anything back then, and when no block is free for anyone, all stand still.",
        ),
        Mistake(
            "blocks not returned",
            _made_room(returns=False),
            "a preempted request's blocks do not come back to the pool: free += its owned blocks.",
        ),
        Mistake(
            "all the younger preempted",
            _made_room(everyone=True),
            "all requests younger than the asking one are preempted. Stop as soon as there is room "
            "enough: each of them costs a prompt to be computed again.",
        ),
        Mistake(
            "one gives way at most",
            _one_victim,
            "only one request is preempted for each that asks, even if that is not room enough: "
            "`while`, not `if`.",
        ),
        Mistake(
            "the youngest stays",
            _youngest_stays,
            "a request that finds no room, and after which nobody is left, keeps its blocks and "
            "waits. It is the youngest itself then: it is preempted, and gives back all it owns.",
        ),
        Mistake(
            "missing blocks returned",
            _missing_returned,
            "a preempted request gives back the blocks that it was missing as well. It never got "
            "them: only what it owned comes back.",
        ),
    ),
    hints=(
        "Go through the requests from the oldest. Before one advances, is free enough for it?",
        "While it is not: the last one that still runs goes, and free grows by what it owned. That "
        "can be the asking one itself; then it does not advance.",
        "Keep `alive`, how many still run. The last of them is number alive - 1.",
        "while i < alive and missing[i] > free: alive -= 1; free += owned[alive]",
    ),
)


# --- outpace -------------------------------------------------------------------------------------


def in_order(
    state: State,
    queue: Sequence[Job],
    budget: int | None = None,
    seats: int | None = None,
    look_at_pool: bool = True,
    preempt: bool = True,
) -> Mapping[Job, int]:
    """The scheduler's rule with the waiting jobs in the order of ``queue``, and its slips."""
    budget = state.budget if budget is None else budget
    shares: dict[Job, int] = {}
    free, alive = state.free, list(state.running)
    for job in state.running:
        tokens = min(job.uncomputed, budget)
        while preempt and job in alive and job.missing(tokens) > free:
            victim = alive.pop()
            shares[victim], free = 0, free + victim.blocks
        if job in alive and tokens and job.missing(tokens) <= free:
            shares[job], budget, free = tokens, budget - tokens, free - job.missing(tokens)
    for job in () if 0 in shares.values() else queue:  # nobody overtakes who was preempted
        room = not look_at_pool or job.missing(job.uncomputed) + len(alive) <= free
        if not budget or len(alive) >= (seats or state.seats) or not room:
            break
        shares[job] = min(job.uncomputed, budget)
        budget, free = budget - shares[job], free - job.missing(job.uncomputed)
        alive.append(job)
    return shares


def shortest(state: State, limit: float = 0.7) -> list[Job]:
    """The short prompts first; but whoever has waited for a share of the patience goes before."""

    def place(job: Job) -> tuple[bool, float]:
        old = state.now - job.arrival > limit * state.patience
        return not old, job.arrival if old else job.uncomputed

    return sorted(state.waiting, key=place)


def _prompts_before_decodes(state: State) -> Mapping[Job, int]:
    shares, budget = {}, state.budget
    for job in sorted([*state.running, *state.waiting], key=lambda job: job.uncomputed == 1):
        if budget:
            shares[job] = min(job.uncomputed, budget)
            budget -= shares[job]
    return shares


def _plays(plan: contest.Plan):
    """The exercise's function for a plan; a trace is played once."""
    return functools.cache(lambda name: contest.compete(plan, name))


outpace = _plays(lambda state: in_order(state, shortest(state)))


def _trace(label: str) -> Case:
    return Case(label, lambda m: (label,))


OUTPACE = Exercise(
    name="outpace",
    lesson=LESSON,
    title="Beat the scheduler",
    difficulty=5,
    minutes=60,
    reference=lambda name: outpace(name),
    outputs=("broken", "slow"),
    cases=tuple(map(_trace, contest.TRACES)),
    mistakes=(
        Mistake(
            "no faster",
            _plays(lambda state: in_order(state, state.waiting)),
            "no rule is broken, and first tokens come as late as with the engine's scheduler. In "
            "which order do you admit those that wait? One long prompt in front delays all.",
        ),
        Mistake(
            "starvation",
            _plays(lambda state: in_order(state, shortest(state, 10**6))),
            "the plan is fast, and a long prompt waits for ever while short ones keep coming: "
            "starvation. Let the order depend on how long a job has waited.",
        ),
        Mistake(
            "too patient with the old",
            _plays(lambda state: in_order(state, shortest(state, 0.3))),
            "nobody starves, but in the stream the long prompts go first too soon, and it is no "
            "faster than the scheduler. state.patience leaves them more time than that.",
        ),
        Mistake(
            "over the budget",
            _plays(lambda state: in_order(state, shortest(state), budget=10**6)),
            "a step has more tokens than state.budget. Prompts are computed in pieces: a job gets "
            "at most what is left of the budget.",
        ),
        Mistake(
            "over the pool",
            _plays(lambda state: in_order(state, shortest(state), look_at_pool=False)),
            "in the small pool jobs are admitted that have no room: before you admit one, compare "
            "job.missing(job.uncomputed) with what is left of state.free.",
        ),
        Mistake(
            "too many seats",
            _plays(lambda state: in_order(state, shortest(state), seats=10**6)),
            "more than state.seats jobs run at once: those that run, less those that you preempt, "
            "and those that you admit.",
        ),
        Mistake(
            "streams stalled",
            _plays(_prompts_before_decodes),
            "prompts get the budget before the running streams do, and those stall. Decodes first: "
            "they are one token each.",
        ),
        Mistake(
            "never preempts",
            _plays(lambda state: in_order(state, shortest(state), preempt=False)),
            "in the small pool a running stream finds no block, and is left out: somebody has to "
            "give way. Preempt a job with a share of 0, and it will wait again.",
        ),
    ),
    hints=(
        "Start from first_come: it keeps every rule, and loses no time but in one place.",
        "The mean counts heads, not tokens. Who should go first, if it costs the others least?",
        "sorted(state.waiting, key=lambda job: job.uncomputed) is fast, and starves a long prompt. "
        "Those that have waited long need to go before the short ones.",
        "A key of two parts: (False, job.arrival) for a job with state.now - job.arrival > "
        "0.7 * state.patience, and (True, job.uncomputed) for the others.",
    ),
)

EXERCISES = (STEP_WORK, SHARE_BUDGET, MAKE_ROOM, OUTPACE)
