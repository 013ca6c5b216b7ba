"""The scheduler alone: no tensors, no model."""

import random

import pytest

from litellama.engine.block_manager import BlockManager
from litellama.engine.request import Request
from litellama.engine.scheduler import Scheduler, Step
from litellama.sampling import SamplingParams


def request(number: int, prompt: int, max_length: int = 1000) -> Request:
    """A prompt that begins like no other."""
    ids = [number] * prompt
    return Request(number, ids, SamplingParams(), 0, detokenizer=None, max_length=max_length)


def arrive(step: Step) -> None:
    """The tokens of a step become known."""
    for s in step.sampling:
        s.request.num_pending -= 1
        s.request.token_ids.append(0)


def advance(scheduler: Scheduler) -> list[tuple[int, int]]:
    """One step with an imaginary model; (request_id, tokens) of each scheduled request."""
    step = scheduler.schedule()
    arrive(step)
    return [(s.request.request_id, s.num_tokens) for s in step.scheduled]


def test_prompts_then_one_token_each():
    scheduler = Scheduler(BlockManager(100, 4), max_num_seqs=8, max_step_tokens=64)
    for number, prompt in enumerate((5, 1, 9)):
        scheduler.add(request(number, prompt))
    assert advance(scheduler) == [(0, 5), (1, 1), (2, 9)]
    assert advance(scheduler) == [(0, 1), (1, 1), (2, 1)]


def test_a_long_prompt_is_cut_to_the_budget_and_never_delays_a_running_stream():
    scheduler = Scheduler(BlockManager(100, 4), max_num_seqs=8, max_step_tokens=10)
    scheduler.add(request(0, 3))
    assert advance(scheduler) == [(0, 3)]
    scheduler.add(request(1, 25))
    assert advance(scheduler) == [(0, 1), (1, 9)]
    assert advance(scheduler) == [(0, 1), (1, 9)]
    assert advance(scheduler) == [(0, 1), (1, 7)]
    assert advance(scheduler) == [(0, 1), (1, 1)]


def test_nobody_is_admitted_behind_an_unfinished_prompt_so_only_the_last_has_one():
    scheduler = Scheduler(BlockManager(100, 4), max_num_seqs=8, max_step_tokens=10)
    for number, prompt in enumerate((3, 25, 3)):
        scheduler.add(request(number, prompt))
    assert advance(scheduler) == [(0, 3), (1, 7)]
    assert advance(scheduler) == [(0, 1), (1, 9)]
    assert advance(scheduler) == [(0, 1), (1, 9)]
    assert advance(scheduler) == [(0, 1), (1, 1), (2, 3)]


def test_no_more_than_max_num_seqs_run_and_the_rest_come_in_order():
    scheduler = Scheduler(BlockManager(100, 4), max_num_seqs=2, max_step_tokens=64)
    requests = [request(i, 2) for i in range(4)]
    for r in requests:
        scheduler.add(r)
    assert [i for i, _ in advance(scheduler)] == [0, 1]
    scheduler.remove(requests[0])
    assert [i for i, _ in advance(scheduler)] == [1, 2]


def test_a_full_pool_preempts_the_last_arrival_and_lets_it_return():
    manager = BlockManager(5, 2, prefix_caching=False)
    scheduler = Scheduler(manager, max_num_seqs=4, max_step_tokens=64)
    first, second = request(0, 4), request(1, 4)
    scheduler.add(first)
    scheduler.add(second)
    assert advance(scheduler) == [(0, 4), (1, 4)]
    assert manager.num_free == 1
    assert advance(scheduler) == [(0, 1)], "each needs a block, and there is one"
    assert scheduler.num_preemptions == 1
    assert (second.blocks, second.num_computed, len(second.token_ids)) == ([], 0, 5)
    scheduler.remove(first)
    assert advance(scheduler) == [(1, 5)], "prompt and the token it had are computed again"


def test_a_preempted_request_computes_only_what_is_not_in_the_cache_any_more():
    scheduler = Scheduler(BlockManager(5, 2), max_num_seqs=4, max_step_tokens=64)
    first, second = request(0, 4), request(1, 4)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler)
    for _ in range(3):
        assert advance(scheduler) == [(0, 1)], "takes one of the second's two blocks, the last"
    scheduler.remove(first)
    assert advance(scheduler) == [(1, 3)]


def test_nobody_is_admitted_who_would_soon_be_preempted():
    scheduler = Scheduler(BlockManager(7, 2), max_num_seqs=4, max_step_tokens=64)
    for number in range(3):
        scheduler.add(request(number, 4))
    assert advance(scheduler) == [(0, 4), (1, 4)]
    assert scheduler.manager.num_free == 3, "one for the third would be left, and two are running"


def fields(step: Step) -> tuple[int, int, bool, int]:
    s = step.scheduled[0]
    return s.start, s.stop, s.samples, s.num_output


def test_the_token_that_is_computed_next_need_not_be_known():
    """Two steps are scheduled before the tokens of the first are known."""
    scheduler = Scheduler(BlockManager(10, 2), max_num_seqs=4, max_step_tokens=64)
    r = request(0, 3, max_length=6)
    scheduler.add(r)
    first, second = scheduler.schedule(), scheduler.schedule()
    assert [fields(step) for step in (first, second)] == [(0, 3, True, 0), (3, 4, True, 1)]
    assert (r.length, r.num_pending, len(r.token_ids)) == (5, 2, 3)
    assert len(r.block_keys) == 1, "the second block is full, but not all its tokens are known"
    arrive(first)
    third = scheduler.schedule()
    assert len(r.block_keys) == 2
    assert third.scheduled[0].start == 4
    assert scheduler.schedule() is None, "the last token wanted is on its way"
    arrive(second)
    arrive(third)
    assert len(r.token_ids) == 6
    scheduler.remove(r)
    assert scheduler.manager.num_free == 10


def test_an_aborted_waiting_request_is_forgotten():
    scheduler = Scheduler(BlockManager(4, 2), max_num_seqs=1, max_step_tokens=64)
    running, waiting = request(0, 2), request(1, 2)
    scheduler.add(running)
    scheduler.add(waiting)
    advance(scheduler)
    scheduler.remove(waiting)
    scheduler.remove(running)
    assert scheduler.schedule() is None
    assert scheduler.manager.num_free == 4


def test_the_trace_keeps_the_last_steps_only_when_asked():
    for kept in (0, 3):
        scheduler = Scheduler(BlockManager(10, 4), 1, 8, trace_steps=kept)
        scheduler.add(request(0, 2))
        for _ in range(5):
            advance(scheduler)
        assert [step.number for step in scheduler.trace] == [2, 3, 4][3 - kept :]


@pytest.mark.parametrize("seed", range(30))
def test_random_traffic_always_finishes_within_the_limits(seed):
    rng = random.Random(seed)
    manager = BlockManager(rng.randint(8, 20), rng.choice([1, 2, 4]))
    capacity = manager.num_blocks * manager.block_size
    scheduler = Scheduler(
        manager, max_num_seqs=rng.randint(1, 6), max_step_tokens=rng.randint(6, 12)
    )
    alive: dict[Request, int] = {}
    for number in range(25):
        prompt = rng.randint(1, capacity - 1)
        longest = min(capacity, prompt + rng.randint(1, 6))
        r = request(number % 3, prompt, longest)
        alive[r] = longest
        scheduler.add(r)
    for _ in range(20_000):
        step = scheduler.schedule()
        assert step, "with requests waiting and nothing running, something must be admitted"
        assert step.num_tokens <= scheduler.max_step_tokens
        assert len(scheduler.running) <= scheduler.max_num_seqs
        assert len({s.request for s in step.scheduled}) == len(step.scheduled)
        arrive(step)
        for s in step.scheduled:
            assert len(s.request.blocks) * manager.block_size >= s.stop == s.request.num_computed
            if len(s.request.token_ids) >= alive[s.request]:
                scheduler.remove(s.request)
                del alive[s.request]
        if not alive:
            break
    assert not alive
    assert manager.num_free == manager.num_blocks
