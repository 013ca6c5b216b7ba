"""Lesson 16's contest: a plan of one's own against the engine's scheduler, on given traces.

A plan says which requests advance in a step, and by how much.  The contest keeps the books, stops
at the first broken rule, and compares the mean time to the first token with the scheduler's.  Times
are predictions for an imaginary GPU of round numbers, so they are the same on every machine.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from litellama.course.schedules import Arrival, Machine, serve
from litellama.engine.block_manager import BlockManager
from litellama.engine.scheduler import Scheduler
from litellama.errors import ExerciseError

BUDGET, SEATS, BLOCK_SIZE = 512, 16, 16
PATIENCE = 1500.0  # ms, the longest wait for a first token
TARGET = 0.85  # of the scheduler's mean time to the first token
LATEST = 1.1  # of the scheduler's time to the end of the trace
MOST_STEPS = 5000  # the scheduler takes a few hundred
GPU = Machine("an imaginary GPU", bandwidth=3e12, flops=6e14, parameters=8e9, kv_bytes=131072)
# What a plan can break; 0 is nothing.
RULES = (
    "every rule is kept",
    "the budget: more tokens in a step than state.budget",
    "the pool: more blocks needed than are free",
    "the seats: more requests running than state.seats",
    "progress: requests are left, and nothing is scheduled or no end is in sight",
    f"patience: a first token later than {PATIENCE:.0f} ms after the arrival",
    "no stall: a running job that decodes is left out, and neither advances nor is preempted",
)
BUDGET_BROKEN, POOL_BROKEN, SEATS_BROKEN, STUCK, STARVED, STALLED = range(1, 7)

Trace = tuple[int, tuple[tuple[float, int, int], ...]]  # blocks; (arrival in ms, prompt, answer)


@dataclass(eq=False)
class Job:
    """A request as a plan sees it; the length of the answer is nobody's to know.

    arrival: in ms.  prompt: tokens.  length: prompt and answer so far.  computed: tokens whose keys
    are in the cache.  blocks: how many it owns.
    """

    number: int
    arrival: float
    prompt: int
    length: int
    computed: int = 0
    blocks: int = 0

    @property
    def uncomputed(self) -> int:
        """Tokens still to be computed: 1 while it decodes."""
        return self.length - self.computed

    def missing(self, tokens: int) -> int:
        """Blocks to be taken so that it can advance by so many tokens."""
        return max(-(-(self.computed + tokens) // BLOCK_SIZE) - self.blocks, 0)


@dataclass(frozen=True)
class State:
    """What a plan may look at: jobs in order of arrival, free blocks, the time in ms, the rules."""

    waiting: list[Job]
    running: list[Job]
    free: int
    now: float
    budget: int = BUDGET
    seats: int = SEATS
    patience: float = PATIENCE


Plan = Callable[[State], Mapping[Job, int] | None]


@dataclass
class Result:
    """How a plan did: the rule it broke (0: none), in which step, and the first tokens' times."""

    broken: int
    step: int
    first_tokens: list[float]
    end: float

    @property
    def mean(self) -> float:
        """Mean time to the first token, in ms."""
        return sum(self.first_tokens) / max(len(self.first_tokens), 1)


def check_shares(shares: Mapping[Job, int], jobs: Sequence[Job]) -> None:
    """ExerciseError unless each share is of one of the jobs, and from 0 to what it can use."""
    for job, tokens in shares.items():
        if job not in jobs:
            raise ExerciseError(f"a share for {job}, which is neither waiting nor running")
        if not isinstance(tokens, int) or not 0 <= tokens <= job.uncomputed:
            raise ExerciseError(
                f"a share of {tokens} tokens for job {job.number}: it must be a whole number from "
                f"0 to the job's uncomputed tokens, {job.uncomputed}"
            )


class Game:
    """One trace being served by a plan."""

    def __init__(self, trace: Trace) -> None:
        self.free, arrivals = trace
        self.jobs = [Job(i, at, prompt, prompt) for i, (at, prompt, _) in enumerate(arrivals)]
        self.ends = [prompt + answer for _, prompt, answer in arrivals]
        self.running: list[Job] = []
        self.times: dict[Job, list[float]] = {job: [] for job in self.jobs}
        self.now, self.steps = 0.0, 0

    def left(self) -> list[Job]:
        """Jobs that have not ended."""
        return [job for job in self.jobs if job.length < self.ends[job.number]]

    def waiting(self) -> list[Job]:
        """Jobs that have arrived and do not run."""
        return [j for j in self.left() if j.arrival <= self.now and j not in self.running]

    def _books(self) -> list[tuple[int, ...]]:
        return [(job.length, job.computed, job.blocks) for job in self.jobs]

    def play(self, plan: Plan) -> Result | None:
        """Serve to the end or to the first broken rule; None if the plan returns None.

        ExerciseError if the plan changes a job, or if its shares make no sense.
        """
        broken = 0
        while not broken and self.left():
            waiting = self.waiting()
            if not waiting and not self.running:
                self.now = min(job.arrival for job in self.left())
                continue
            books = self._books()
            shares = plan(State(list(waiting), list(self.running), self.free, self.now))
            if shares is None:
                return None
            if books != self._books():
                raise ExerciseError("the plan changed a job: read jobs, and return the shares")
            check_shares(shares, (*self.running, *waiting))
            broken = STUCK if self.steps == MOST_STEPS else self._advance(dict(shares))
        first = [times[0] - job.arrival for job, times in self.times.items() if times]
        return Result(broken, self.steps, first, self.now)

    def _advance(self, shares: dict[Job, int]) -> int:
        """One step, or the rule that it breaks.  Who is admitted takes blocks for all its text."""
        if sum(shares.values()) > BUDGET:
            return BUDGET_BROKEN
        self._preempt([job for job, tokens in shares.items() if not tokens])
        shares = {job: tokens for job, tokens in shares.items() if tokens}
        if any(job.uncomputed == 1 and job not in shares for job in self.running):
            return STALLED
        admitted = [job for job in shares if job not in self.running]
        self.running += admitted
        if len(self.running) > SEATS:
            return SEATS_BROKEN
        if not shares:
            return STUCK
        reach = shares | {job: job.uncomputed for job in admitted}
        if sum(job.missing(tokens) for job, tokens in reach.items()) > self.free:
            return POOL_BROKEN
        for job, tokens in reach.items():
            missing = job.missing(tokens)
            self.free, job.blocks = self.free - missing, job.blocks + missing
        self._compute(shares)
        late = (self.now - job.arrival for job, times in self.times.items() if not times)
        return STARVED if max(late, default=0.0) > PATIENCE else 0

    def _preempt(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.free, job.blocks, job.computed = self.free + job.blocks, 0, 0
            if job in self.running:
                self.running.remove(job)

    def _compute(self, shares: dict[Job, int]) -> None:
        """Let the time of the step pass, and hand out tokens."""
        for job, tokens in shares.items():
            job.computed += tokens
        keys = sum(job.computed for job in shares)
        self.now += GPU.predicted(sum(shares.values()), keys)
        self.steps += 1
        for job in [job for job in shares if job.computed == job.length]:
            job.length += 1
            self.times[job].append(self.now)
            if job.length == self.ends[job.number]:
                self._preempt([job])


@functools.cache
def first_come(trace: Trace) -> tuple[float, float]:
    """The engine's scheduler: its mean time to the first token, and when it is done, in ms."""
    blocks, arrivals = trace
    scheduler = Scheduler(BlockManager(blocks, BLOCK_SIZE, prefix_caching=False), SEATS, BUDGET)
    requests = [Arrival(prompt, answer, at) for at, prompt, answer in arrivals]
    run = serve(scheduler, requests, GPU.milliseconds)
    return sum(map(run.first_token, run.requests)) / len(arrivals), run.end


def compete(plan: Plan, name: str) -> tuple[int, int] | None:
    """Two numbers for ``check``: the rule that is broken, or 0; and whether the plan is slow.

    slow: 1 where first tokens come too late on average, 2 where the end of the trace does.
    name: of one of the ``TRACES``.
    """
    trace = TRACES[name]
    result = Game(trace).play(plan)
    if result is None:
        return None
    if result.broken:
        return result.broken, 0
    mean, end = first_come(trace)
    if result.mean > TARGET * mean:
        return 0, 1
    return 0, 2 * (result.end > LATEST * end)


def report(plan: Plan) -> None:
    """Print how a plan does on every trace, beside the engine's scheduler."""
    for name, trace in TRACES.items():
        result = Game(trace).play(plan)
        if result is None:
            print("the plan returned None")
            return
        mean, end = first_come(trace)
        print(f"{name}: {RULES[result.broken]}", f"(step {result.step})" if result.broken else "")
        if not result.broken:
            print(
                f"  first token after {result.mean:.0f} ms on average (the scheduler {mean:.0f}; "
                f"asked for {TARGET * mean:.0f}), at most {max(result.first_tokens):.0f};\n"
                f"  all done after {result.end:.0f} ms (the scheduler {end:.0f}; asked for "
                f"{LATEST * end:.0f})"
            )


def _burst() -> Trace:
    """Three long prompts, and right behind them twenty short ones."""
    long = [(0.0, 6000, 20)] * 3
    return 4000, (*long, *((1.0 + i, 100 + 7 * i, 30) for i in range(20)))


def _stream() -> Trace:
    """Two long prompts, then short ones that never leave the machine a break."""
    long = [(0.0, 5000, 10)] * 2
    return 4000, (*long, *((1.0 + 14.2 * i, 480, 3) for i in range(200)))


def _pool() -> Trace:
    """A pool that is too small for all who would like to run, and answers that grow."""
    long = [(0.0, 2500, 60)] * 2
    return 220, (*long, *((2.0 + 3 * i, 150 + 11 * i, 120) for i in range(12)))


TRACES: dict[str, Trace] = {
    "a burst": _burst(),
    "a stream": _stream(),
    "a small pool": _pool(),
}
