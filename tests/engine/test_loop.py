"""The loop over a model made of hashes: every answer is the one the request has alone."""

import random
import sys
import threading
import time
from collections.abc import Callable

import pytest

from litellama.engine import BlockManager, Engine, Scheduler
from litellama.engine.request import Request
from litellama.engine.scheduler import Step
from litellama.sampling import SamplingParams
from tests.engine.fake_model import EOS, VOCABULARY, FakeRunner, LetterTokenizer, answer

DEPTHS = pytest.mark.parametrize(
    ("depth", "lazy"), [(0, False), (1, False), (1, True)], ids=["depth0", "depth1", "depth1_lazy"]
)


def make_engine(
    num_blocks: int = 64,
    block_size: int = 4,
    *,
    depth: int = 0,
    lazy: bool = False,
    max_num_seqs: int = 8,
    max_step_tokens: int = 64,
    max_seq_len: int | None = None,
    prefix_caching: bool = True,
) -> Engine:
    manager = BlockManager(num_blocks, block_size, prefix_caching)
    return Engine(
        FakeRunner(manager, depth, lazy),
        Scheduler(manager, max_num_seqs, max_step_tokens, trace_steps=1_000_000),
        LetterTokenizer(),
        eos_token_ids=[EOS],
        max_seq_len=max_seq_len or num_blocks * block_size,
    )


def expected(engine: Engine, request: Request) -> list[int]:
    return answer(request.prompt_token_ids, request.params, request.seed, engine.max_seq_len)


def run(engine: Engine, *requests: Request) -> None:
    """Step until all are finished."""
    for _ in range(100_000):
        if all(r.finish_reason is not None for r in requests):
            return
        engine.step()
    raise AssertionError("these requests never finish")


def assert_idle(engine: Engine) -> None:
    """Nothing waits or runs, and every block is free, whatever was shared."""
    scheduler = engine.scheduler
    assert not scheduler.running
    assert not scheduler.waiting
    states = scheduler.manager.snapshot({})
    assert all(b.references == 0 for b in states)
    assert scheduler.manager.num_free == len(states)


def random_request(engine: Engine, rng: random.Random, beginnings: list[list[int]]) -> Request:
    """A prompt that often begins like others, or is the same."""
    prompt = list(rng.choice(beginnings)[: rng.randint(0, engine.max_seq_len)])
    if rng.random() < 0.7 or not prompt:
        prompt += [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, 9))]
    params = SamplingParams(
        max_tokens=rng.randint(1, 30),
        stop=rng.choice([(), (), "ab", ("q", "hh")]),
        ignore_eos=rng.random() < 0.5,
    )
    return engine.submit(prompt[: engine.max_seq_len], params, seed=rng.randrange(3))


def random_engine(rng: random.Random, depth: int, lazy: bool) -> Engine:
    """Limits that bite: few blocks, few tokens in a step."""
    return make_engine(
        rng.randint(10, 40),
        rng.choice([1, 2, 4, 8]),
        depth=depth,
        lazy=lazy,
        max_num_seqs=rng.randint(1, 9),
        max_step_tokens=rng.choice([3, 10, 40, 500]),
        prefix_caching=rng.random() < 0.8,
    )


def watch(engine: Engine) -> None:
    """Check each step as it is scheduled: its limits, and that nobody waits who need not."""
    scheduler, schedule = engine.scheduler, engine.scheduler.schedule

    def checked() -> Step | None:
        # The oldest request advances in every step, unless its last token is on its way.
        oldest = [r for r in [*scheduler.running, *scheduler.waiting][:1] if r.num_uncomputed]
        assert all(r.num_uncomputed <= 1 for r in scheduler.running[:-1])
        streams = [r for r in scheduler.running if r.num_uncomputed == 1]
        step = schedule()
        scheduled = [s.request for s in step.scheduled] if step else []
        assert set(oldest) <= set(scheduled)
        preempted = step.preempted if step else []
        assert all(r in scheduled or r.request_id in preempted or not r.blocks for r in streams)
        assert len(scheduled) == len(set(scheduled)) <= scheduler.max_num_seqs
        assert sum(s.num_tokens for s in step.scheduled) <= scheduler.max_step_tokens if step else 1
        ids = [r.request_id for r in [*scheduler.running, *scheduler.waiting]]
        assert ids == sorted(ids), "who runs is older than who waits"
        for r in scheduler.running:
            assert len(r.blocks) <= scheduler.manager.blocks_for(r.length), "under one block unused"
        return step

    scheduler.schedule = checked  # type: ignore[method-assign]


@DEPTHS
@pytest.mark.parametrize("seed", range(40))
def test_random_traffic_gives_each_request_the_text_it_has_alone(seed, depth, lazy):
    """Arrivals, aborts and failing steps at random times, over a pool too small for them."""
    rng = random.Random(seed)
    engine = random_engine(rng, depth, lazy)
    watch(engine)
    beginnings = [[rng.randrange(1, VOCABULARY) for _ in range(400)] for _ in range(2)]
    failing = {(rng.choice(["submit", "result"]), rng.randint(1, 60)) for _ in range(seed % 4)}

    def fail(where: str, step: Step) -> None:
        if (where, step.number) in failing:
            raise MemoryError(f"injected into step {step.number}")

    engine.runner.fail = fail
    requests: list[Request] = []
    while len(requests) < 40 or any(r.finish_reason is None for r in requests):
        if len(requests) < 40 and rng.random() < 0.4:
            requests.append(random_request(engine, rng, beginnings))
        if requests and rng.random() < 0.03:
            engine.abort(rng.choice(requests))
        engine.step()
    for r in requests:
        alone = expected(engine, r)
        assert engine.take(r) == r.detokenizer.text
        if r.finish_reason == "aborted":
            assert r.output_token_ids == alone[: len(r.output_token_ids)]
            assert r.error is None or "injected" in str(r.error)
        else:
            assert r.output_token_ids == alone
            assert r.detokenizer.text == LetterTokenizer().decode(alone) or r.params.stop
    assert_idle(engine)


@DEPTHS
def test_load(depth, lazy):
    """2,000 requests, many that begin alike, some aborted, and room for about six at a time."""
    rng = random.Random(1)
    engine = make_engine(
        64, 4, depth=depth, lazy=lazy, max_num_seqs=32, max_step_tokens=96, max_seq_len=96
    )
    watch(engine)
    beginnings = [[rng.randrange(1, VOCABULARY) for _ in range(80)] for _ in range(5)]
    requests = [random_request(engine, rng, beginnings) for _ in range(2000)]
    aborted = set(rng.sample(requests, 200))
    while engine.scheduler.waiting or engine.scheduler.running:
        for r in rng.sample(requests, 3):
            if r in aborted:
                engine.abort(r)
        engine.step()
    run(engine, *requests)
    for r in requests:
        alone = expected(engine, r)
        assert r.output_token_ids == alone[: len(r.output_token_ids)]
        assert r.finish_reason in ("stop", "length") or r in aborted
        assert len(r.output_token_ids) == len(alone) or r.finish_reason == "aborted"
    assert_idle(engine)
    stats = engine.stats()
    assert stats.preemptions > 50
    assert stats.cached_tokens > stats.prompt_tokens / 4
    assert engine.runner.num_copies > 10
    admitted = [s.request.request_id for step in engine.scheduler.trace for s in step.scheduled]
    firsts = list(dict.fromkeys(admitted))
    assert firsts == sorted(firsts), "first come, first served"


@DEPTHS
@pytest.mark.parametrize("where", ["submit", "result"])
def test_a_step_that_fails_ends_its_requests_with_the_error_and_nobody_elses(depth, lazy, where):
    engine = make_engine(depth=depth, lazy=lazy, max_num_seqs=3)
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    requests = [engine.submit([1, 2, 3, 4, i + 5], params, seed=i) for i in range(5)]

    def fail(place: str, step: Step) -> None:
        if (place, step.number) == (where, 4):
            raise ZeroDivisionError("injected")

    engine.runner.fail = fail
    run(engine, *requests)
    for r in requests[:3]:
        assert r.finish_reason == "aborted"
        assert isinstance(r.error, ZeroDivisionError)
        assert 0 < len(r.output_token_ids) < 20
        assert engine.take(r) == LetterTokenizer().decode(r.output_token_ids)
    for r in requests[3:]:
        assert (r.error, r.output_token_ids) == (None, expected(engine, r))
    assert_idle(engine)


@DEPTHS
def test_requests_that_ran_beside_the_failed_step_are_computed_again(depth, lazy):
    """A long prompt fills the step that fails; the request behind it has begun and is not in it."""
    engine = make_engine(depth=depth, lazy=lazy, max_step_tokens=8)
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    first = engine.submit(list(range(1, 7)), params, seed=0)
    second = engine.submit(list(range(7, 23)), params, seed=0)

    def fail(place: str, step: Step) -> None:
        if place == "submit" and [s.request for s in step.scheduled] == [second]:
            raise ValueError("injected")

    engine.runner.fail = fail
    run(engine, first, second)
    third = engine.submit(list(range(7, 23)), params, seed=0)
    run(engine, third)
    assert first.output_token_ids == expected(engine, first)
    assert third.output_token_ids == expected(engine, third)
    assert_idle(engine)


def test_ctrl_c_in_a_step_harms_no_request():
    engine = make_engine(depth=1)
    requests = [engine.submit([1, 2, i + 3], SamplingParams(max_tokens=9), i) for i in range(3)]
    interrupts = iter([False, False, True])

    def fail(place: str, step: Step) -> None:
        if place == "result" and next(interrupts, False):
            raise KeyboardInterrupt

    engine.runner.fail = fail
    with pytest.raises(KeyboardInterrupt):
        run(engine, *requests)
    run(engine, *requests)
    assert [r.output_token_ids for r in requests] == [expected(engine, r) for r in requests]
    assert_idle(engine)


ENGINE_FILES = {
    sys.modules[part.__module__].__file__ for part in (Engine, Scheduler, BlockManager, Request)
}
# Where the lock is held or given back and where the books are rebuilt: an interrupt there is not
# made good.
UNINTERRUPTED = {"_turn", "_recover", "restart", "reset"}


def interrupt_at(line: int) -> Callable:
    """A tracer that raises KeyboardInterrupt at the so-many-th line of the engine's own files."""
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        code = frame.f_code
        if code.co_filename not in ENGINE_FILES or code.co_name in UNINTERRUPTED:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize("depth", [0, 1])
def test_ctrl_c_at_any_line_harms_no_request(depth):
    interrupted = 0
    for seed in range(250):
        rng = random.Random(seed)
        blocks, budget = rng.randint(10, 24), rng.choice([5, 40])
        engine = make_engine(
            blocks, rng.choice([1, 2, 4]), depth=depth, max_num_seqs=4, max_step_tokens=budget
        )
        beginnings = [[rng.randrange(1, VOCABULARY) for _ in range(20)] for _ in range(2)]
        requests = [random_request(engine, rng, beginnings) for _ in range(4)]
        for _ in range(rng.randint(0, 12)):
            engine.step()
        sys.settrace(interrupt_at(rng.randint(1, 120)))
        try:
            engine.step()
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(None)
        run(engine, *requests)
        for request in requests:
            assert request.error is None
            assert request.output_token_ids == expected(engine, request)
        assert_idle(engine)
    assert interrupted > 100


@pytest.mark.timeout(60)
def test_a_request_that_is_closed_inside_a_step_ends_with_the_next():
    """The garbage collector closes forgotten streams wherever it runs, with the lock held."""
    engine = make_engine()
    forgotten, other = (engine.submit([i, 2, 3], SamplingParams(max_tokens=9), i) for i in (1, 2))
    engine.runner.fail = lambda place, step: engine.abort(forgotten)
    engine.step()
    assert forgotten.finish_reason is None
    engine.step()
    assert forgotten.finish_reason == "aborted"
    run(engine, other)
    assert other.output_token_ids == expected(engine, other)
    assert_idle(engine)


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_a_tokenizer_that_fails_ends_its_own_request_alone(stop):
    engine = make_engine()
    params = SamplingParams(stop=stop, max_tokens=5)
    broken, other, aborted = (engine.submit([1, 2, i], params, seed=0) for i in (3, 4, 5))
    for request in (broken, aborted):
        request.detokenizer._tokenizer = None
    engine.step()
    engine.abort(aborted)
    run(engine, broken, other)
    assert engine.take(broken) == engine.take(aborted) == ""
    assert isinstance(broken.error, AttributeError)
    assert broken.finish_reason == aborted.finish_reason == "aborted"
    assert (other.error, other.output_token_ids) == (None, expected(engine, other))
    assert_idle(engine)


def test_nothing_is_kept_of_requests_that_nobody_asks_about():
    engine = make_engine()
    run(engine, engine.submit([1, 2, 3], SamplingParams(), seed=0))
    assert not engine._live


def test_the_step_behind_the_last_token_is_dropped():
    """With a step always in flight, the end of a text is noticed when one more is under way; the
    length is known beforehand, and nothing more is computed for it."""
    engine = make_engine(depth=1)
    by_length = SamplingParams(max_tokens=5, ignore_eos=True)
    request = engine.submit([1, 2, 3], by_length, seed=0)
    run(engine, request)
    assert engine.runner.num_computed == 3 + 4
    prompt = next(
        [i] for i in range(1, VOCABULARY) if answer([i], SamplingParams(), 0, 99)[-1] == EOS
    )
    engine = make_engine(depth=1)
    request = engine.submit(prompt, SamplingParams(), seed=0)
    run(engine, request)
    assert request.finish_reason == "stop"
    assert engine.runner.num_computed == 1 + len(request.output_token_ids)


@DEPTHS
def test_a_shared_beginning_is_computed_once_even_in_one_step(depth, lazy):
    engine = make_engine(200, 4, depth=depth, lazy=lazy, max_num_seqs=20, max_step_tokens=200)
    beginning = [1 + i % 20 for i in range(40)]
    params = SamplingParams(max_tokens=1)
    requests = [engine.submit([*beginning, i + 1], params, seed=0) for i in range(10)]
    run(engine, *requests)
    assert engine.runner.num_computed == 40 + 10
    assert [r.num_cached for r in requests] == [0] + [40] * 9
    assert engine.stats().steps == 1
    assert [r.output_token_ids for r in requests] == [expected(engine, r) for r in requests]


@DEPTHS
@pytest.mark.parametrize("block_size", [1, 4])
def test_the_same_prompt_again_computes_one_token(depth, lazy, block_size):
    """All of it is cached; the last token is computed once more, in a copy of the last block."""
    engine = make_engine(200, block_size, depth=depth, lazy=lazy)
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    prompt = list(range(1, 13))
    first = engine.submit(prompt, params, seed=0)
    engine.step()
    second = engine.submit(prompt, params, seed=1)
    run(engine, first, second)
    assert second.num_cached == 11
    assert engine.runner.num_copies == 1
    for r in (first, second):
        assert r.output_token_ids == expected(engine, r)


def test_a_preempted_request_resumes_from_its_own_blocks():
    engine = make_engine(8, 4)
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    requests = [engine.submit([i + 1] * 10, params, seed=i) for i in range(2)]
    run(engine, *requests)
    preempted = [s for s in engine.scheduler.trace if s.preempted]
    assert preempted
    resumed = [
        s for step in engine.scheduler.trace for s in step.scheduled if s.num_cached and s.start
    ]
    assert resumed
    assert resumed[0].request is requests[1]
    assert requests[1].num_cached == 0, "its own blocks are no gain for the caller"


def test_threads_take_turns_and_each_gets_its_text():
    engine = make_engine(60, 4, depth=1, max_num_seqs=4)
    texts: dict[int, list[int]] = {}

    def work(number: int) -> None:
        for i in range(5):
            request = engine.submit([number + 1, i + 1], SamplingParams(max_tokens=9), seed=i)
            while request.finish_reason is None:
                engine.step()
            texts[number * 5 + i] = request.output_token_ids
            assert request.output_token_ids == expected(engine, request)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 40
    assert_idle(engine)


def test_a_thread_that_steps_all_the_time_lets_others_in_between():
    """Somebody who waits during a step is served before the next one begins."""
    engine = make_engine(400, 4)
    request = engine.submit([1], SamplingParams(max_tokens=60, ignore_eos=True), seed=0)
    late: list[int] = []
    threads: list[threading.Thread] = []

    def somebody_comes(place: str, step: Step) -> None:
        if place == "submit":
            ask = threading.Thread(target=lambda: late.append(engine.stats().steps - step.number))
            threads.append(ask)
            ask.start()
            while not engine._next.locked():
                time.sleep(0.0001)

    engine.runner.fail = somebody_comes
    run(engine, request)
    for thread in threads:
        thread.join()
    assert late == [1] * 60


def test_the_trace_and_the_snapshot_can_be_drawn():
    engine = make_engine(6, 4, max_step_tokens=8)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    requests = [engine.submit([i + 1] * 6, params, seed=0) for i in range(2)]
    engine.step()
    engine.step()
    chart = [
        [(s.request.request_id, s.kind, s.num_tokens) for s in step.scheduled]
        for step in engine.scheduler.trace
    ]
    assert chart == [
        [(0, "prefill", 6), (1, "prefill", 2)],
        [(0, "decode", 1), (1, "prefill", 4)],
    ]
    assert engine.stats().free_blocks == 2
    owners = [b.owners for b in engine.snapshot()]
    assert owners == [(0,), (0,), (1,), (1,), (), ()]
    run(engine, *requests)
    assert_idle(engine)
