"""Proofs of lesson 16's exercises: slips in the solutions, and other right answers."""

from proof import Proof, wrong

from litellama.course import contest
from litellama.engine.block_manager import BlockManager
from litellama.engine.scheduler import Scheduler


def work_by_request(parts, num_weights, element_size, kv_bytes):
    read, flops = num_weights * element_size, 0
    for start, stop in parts:
        read += kv_bytes * stop
        for _ in range(start, stop):
            flops += num_weights + num_weights
    return read, flops


class _Line:
    """A request as far as the engine's scheduler looks at it."""

    pictures = ()

    def __init__(self, uncomputed):
        self.token_ids, self.num_pending, self.num_computed = [0] * uncomputed, 0, 0
        self.blocks, self.block_keys, self.num_cached = [], [], None
        self.max_length = uncomputed + 1

    @property
    def length(self):
        return len(self.token_ids) + self.num_pending

    @property
    def num_uncomputed(self):
        return self.length - self.num_computed


def share_by_the_engine(running, waiting, budget, seats):
    scheduler = Scheduler(BlockManager(1000, 4, prefix_caching=False), seats, budget)
    line = [_Line(uncomputed) for uncomputed in (*running, *waiting)]
    scheduler.running += line[: len(running)]
    for request in line[: len(running)]:
        scheduler.manager.grow(request.blocks, 1)
    scheduler.waiting.extend(line[len(running) :])
    shares = {id(s.request): s.num_tokens for s in scheduler.schedule().scheduled}
    return tuple(shares.get(id(request), 0) for request in line)


def room_by_recursion(owned, missing, free):
    if not owned:
        return 0, 0, free
    if missing[0] <= free:
        advanced, preempted, left = room_by_recursion(owned[1:], missing[1:], free - missing[0])
        return advanced + 1, preempted, left
    advanced, preempted, left = room_by_recursion(owned[:-1], missing[:-1], free + owned[-1])
    return advanced, preempted + 1, left


def _ageing(state):
    """A smooth order: a prompt counts for less the longer it has waited."""
    shares, left, free, kept = {}, state.budget, state.free, list(state.running)
    while sum(job.missing(1) for job in kept) > free:
        victim = kept.pop()
        shares[victim], free = 0, free + victim.blocks
    for job in kept:
        shares[job] = min(job.uncomputed, left)
        left, free = left - shares[job], free - job.missing(shares[job])
    for job in sorted(state.waiting, key=lambda j: j.uncomputed - 4.5 * (state.now - j.arrival)):
        needed = job.missing(job.uncomputed)
        if left and len(kept) < state.seats and free >= needed + len(kept):
            shares[job] = min(left, job.uncomputed)
            left, free = left - shares[job], free - needed
            kept.append(job)
    return shares


def outpace_by_ageing(name):
    return contest.compete(_ageing, name)


_WEIGHTS = "num_weights * element_size"
_KEYS = "sum(stop for start, stop in parts)"
_FLOPS = "2 * num_weights * tokens"
_SHARE = "min(uncomputed, budget) if seat < seats else 0"
_BUDGET = "        budget -= share\n"
_GIVES = "            alive -= 1\n            free += owned[alive]"
_OLD = "0.7 * state.patience"
_ADMIT = "if not budget or len(alive) == state.seats or needed + len(alive) > free"
_VICTIM = "        while job in alive and job.missing(tokens) > free:\n"

PROOFS = {
    "step_work": Proof(
        wrong=(
            wrong("each", "weights for each request", (_WEIGHTS, f"{_WEIGHTS} * len(parts)")),
            wrong("elements", "elements for bytes", (_WEIGHTS, "num_weights")),
            wrong("new", "new keys only", (_KEYS, "sum(stop - start for start, stop in parts)")),
            wrong("before", "own keys forgotten", (_KEYS, "sum(start for start, stop in parts)")),
            wrong(
                "triangle",
                "keys for each token",
                (_KEYS, "sum(i + 1 for start, stop in parts for i in range(start, stop))"),
            ),
            wrong("half", "multiplications without additions", (_FLOPS, _FLOPS[4:])),
            wrong("decodes", "one token each", (_FLOPS, "2 * num_weights * len(parts)")),
            wrong("again", "all tokens computed again", (_FLOPS, "2 * num_weights * keys")),
            wrong(
                "order",
                "results exchanged",
                (
                    f"{_WEIGHTS} + kv_bytes * keys, {_FLOPS}",
                    f"{_FLOPS}, {_WEIGHTS} + kv_bytes * keys",
                ),
            ),
        ),
        right=(work_by_request,),
    ),
    "share_budget": Proof(
        wrong=(
            wrong("each", "budget for each", (_BUDGET, "")),
            wrong("seats", "seats ignored", (_SHARE, "min(uncomputed, budget)")),
            wrong(
                "whole",
                "overtaking",
                (_SHARE, "uncomputed if seat < seats and uncomputed <= budget else 0"),
            ),
            wrong(
                "stop",
                "whole prompts",
                (_SHARE, "uncomputed if seat < seats and uncomputed <= budget else 0"),
                (_BUDGET, "        budget = budget - share if share else 0\n"),
            ),
            wrong(
                "decodes",
                "decodes not counted",
                (_BUDGET, "        budget -= share * (share > 1)\n"),
            ),
            wrong(
                "prompts",
                "prompts first",
                ("    shares = []\n", "    shares, line = [0] * 5, (*running, *waiting)\n"),
                (
                    "for seat, uncomputed in enumerate((*running, *waiting))",
                    "for seat in sorted(range(5), key=lambda i: line[i] == 1)",
                ),
                ("        share = ", "        uncomputed = line[seat]\n        share = "),
                ("shares.append(share)", "shares[seat] = share"),
            ),
            wrong(
                "equal",
                "equal shares",
                ("    shares = []\n", "    shares, budget = [], budget // min(5, seats)\n"),
                (_BUDGET, ""),
            ),
            wrong(
                "short", "wrong number of results", ("tuple(shares)", "tuple(filter(None, shares))")
            ),
            wrong(
                "one each",
                "one token for each that runs",
                (
                    "min(uncomputed, budget) if",
                    "min(uncomputed if seat >= len(running) else 1, budget) if",
                ),
            ),
            wrong(
                "the queue",
                "waiting first",
                ("enumerate((*running, *waiting))", "enumerate((*waiting, *running))"),
                (
                    "return tuple(shares)",
                    "return tuple(shares[len(waiting) :] + shares[: len(waiting)])",
                ),
            ),
        ),
        right=(share_by_the_engine,),
    ),
    "make_room": Proof(
        wrong=(
            wrong("lost", "blocks not returned", (_GIVES, _GIVES.split("\n")[0])),
            wrong(
                "nobody",
                "nobody preempted",
                ("    i, alive = 0, len(owned)\n", "    i, alive, out = 0, len(owned), 0\n"),
                (_GIVES, "            i, out = i + 1, out + 1"),
                ("return i, len(owned) - alive, free", "return i - out, 0, free"),
            ),
            wrong(
                "itself",
                "the asking one preempted",
                ("    i, alive = 0, len(owned)\n", "    i, alive, out = 0, len(owned), 0\n"),
                (_GIVES, "            free += owned[i]\n            i, out = i + 1, out + 1"),
                ("return i, len(owned) - alive, free", "return i - out, out, free"),
            ),
            wrong(
                "all",
                "all the younger preempted",
                (
                    _GIVES,
                    "            first = i if alive == i + 1 else i + 1\n"
                    "            free += sum(owned[first:alive])\n            alive = first",
                ),
            ),
            wrong(
                "largest",
                "largest preempted",
                (
                    "    i, alive = 0, len(owned)\n    while i < alive:\n"
                    "        if missing[i] <= free:\n            free -= missing[i]\n"
                    "            i += 1\n        else:\n" + _GIVES + "\n"
                    "    return i, len(owned) - alive, free",
                    "    held, done = dict(enumerate(owned)), set()\n"
                    "    for i in range(len(owned)):\n"
                    "        while i in held and missing[i] > free:\n"
                    "            j = max(held, key=lambda j: held[j])\n"
                    "            free += held.pop(j)\n"
                    "            done.discard(j)\n"
                    "        if i in held:\n"
                    "            free -= missing[i]\n"
                    "            held[i] += missing[i]\n"
                    "            done.add(i)\n"
                    "    return len(done), len(owned) - len(held), free",
                ),
            ),
            wrong(
                "stays",
                "the youngest stays",
                (
                    "        else:\n" + _GIVES,
                    "        elif alive > i + 1:\n" + _GIVES + "\n        else:\n            break",
                ),
            ),
            wrong(
                "missing",
                "missing blocks returned",
                ("free += owned[alive]", "free += owned[alive] + missing[alive]"),
            ),
            wrong(
                "if",
                "one gives way at most",
                (
                    "    while i < alive:\n"
                    "        if missing[i] <= free:\n"
                    "            free -= missing[i]\n"
                    "            i += 1\n"
                    "        else:\n"
                    "            alive -= 1\n"
                    "            free += owned[alive]\n"
                    "    return i, len(owned) - alive, free",
                    "    alive, advanced = len(owned), 0\n"
                    "    for i in range(len(owned)):\n"
                    "        if i < alive and missing[i] > free:\n"
                    "            alive -= 1\n"
                    "            free += owned[alive]\n"
                    "        if i < alive and missing[i] <= free:\n"
                    "            free, advanced = free - missing[i], advanced + 1\n"
                    "    return advanced, len(owned) - alive, free",
                ),
            ),
        ),
        right=(room_by_recursion,),
    ),
    "outpace": Proof(
        wrong=(
            wrong("order", "no faster", ("sorted(state.waiting, key=place)", "state.waiting")),
            wrong("old", "no faster", (_OLD, "0")),
            wrong("starve", "starvation", (_OLD, "10 * state.patience")),
            wrong("early", "too patient with the old", (_OLD, "0.35 * state.patience")),
            wrong("pool", "over the pool", (" or needed + len(alive) > free", "")),
            wrong("seats", "too many seats", (" or len(alive) == state.seats", "")),
            wrong(
                "budget",
                "over the budget",
                (
                    "        shares[job] = min(job.uncomputed, budget)",
                    "        shares[job] = job.uncomputed",
                ),
            ),
            wrong(
                "keep",
                "never preempts",
                (_VICTIM, "        while False:\n"),
                ("if job in alive and tokens:", "if job.missing(tokens) <= free and tokens:"),
            ),
            wrong("too much", "raised", ("shares[victim] = 0", "shares[victim] = None")),
        ),
        right=(outpace_by_ageing,),
    ),
}
