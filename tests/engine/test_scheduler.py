"""The scheduler alone: no tensors, no model."""

import random

import pytest

from litellama.engine.block_manager import BlockManager
from litellama.engine.request import Request
from litellama.engine.scheduler import Scheduler
from litellama.sampling import SamplingParams


def request(number: int, prompt: int) -> Request:
    return Request(number, [0] * prompt, SamplingParams(), 0, detokenizer=None)


def advance(scheduler: Scheduler) -> list[tuple[int, int]]:
    """One step with an imaginary model; (request_id, tokens) of each scheduled request."""
    step = scheduler.schedule()
    for s in step:
        samples = s.samples
        s.request.num_computed += s.num_tokens
        if samples:
            s.request.token_ids.append(0)
    return [(s.request.request_id, s.num_tokens) for s in step]


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


def test_no_more_than_max_num_seqs_run_and_the_rest_come_in_order():
    scheduler = Scheduler(BlockManager(100, 4), max_num_seqs=2, max_step_tokens=64)
    requests = [request(i, 2) for i in range(4)]
    for r in requests:
        scheduler.add(r)
    assert [i for i, _ in advance(scheduler)] == [0, 1]
    scheduler.remove(requests[0])
    assert [i for i, _ in advance(scheduler)] == [1, 2]


def test_a_full_pool_preempts_the_last_arrival_and_lets_it_return():
    manager = BlockManager(4, 2)
    scheduler = Scheduler(manager, max_num_seqs=4, max_step_tokens=64)
    first, second = request(0, 4), request(1, 4)
    scheduler.add(first)
    scheduler.add(second)
    assert advance(scheduler) == [(0, 4), (1, 4)]
    assert manager.num_free == 0
    assert advance(scheduler) == [(0, 1)]
    assert scheduler.num_preemptions == 1
    assert (second.blocks, second.num_computed, len(second.token_ids)) == ([], 0, 5)
    scheduler.remove(first)
    assert advance(scheduler) == [(1, 5)], "prompt and the token it had are computed again"


def test_an_aborted_waiting_request_is_forgotten():
    scheduler = Scheduler(BlockManager(4, 2), max_num_seqs=1, max_step_tokens=64)
    running, waiting = request(0, 2), request(1, 2)
    scheduler.add(running)
    scheduler.add(waiting)
    advance(scheduler)
    scheduler.remove(waiting)
    scheduler.remove(running)
    assert scheduler.schedule() == []
    assert scheduler.manager.num_free == 4


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
        alive[r] = (
            min(capacity, prompt + rng.randint(1, 6)) if (r := request(number, prompt)) else 0
        )
        scheduler.add(r)
    for _ in range(20_000):
        step = scheduler.schedule()
        assert step, "with requests waiting and nothing running, something must be admitted"
        assert sum(s.num_tokens for s in step) <= scheduler.max_step_tokens
        assert len(scheduler.running) <= scheduler.max_num_seqs
        assert len({s.request for s in step}) == len(step)
        for s in step:
            stop = s.request.num_computed + s.num_tokens
            assert len(s.request.blocks) * manager.block_size >= stop
            samples = s.samples
            s.request.num_computed = stop
            if samples:
                s.request.token_ids.append(0)
            if len(s.request.token_ids) >= alive[s.request]:
                scheduler.remove(s.request)
                del alive[s.request]
        if not alive:
            break
    assert not alive
    assert manager.num_free == manager.num_blocks
