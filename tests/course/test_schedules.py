"""Lesson 16's timelines and contest: they keep the engine's books, and every rule can be broken."""

import json
import random
from dataclasses import replace

import pytest

from litellama.course import contest, figures, schedules
from litellama.course.exercises.lesson_16 import in_order, shortest
from litellama.course.schedules import Arrival, Machine, serve
from litellama.engine.block_manager import BlockManager
from litellama.engine.scheduler import Scheduler
from litellama.errors import ExerciseError


def scheduler(blocks=100, budget=16, seats=4):
    return Scheduler(BlockManager(blocks, 4), seats, budget)


def test_time_goes_by_what_a_step_costs_and_a_pause_by_the_next_arrival():
    run = serve(scheduler(), [Arrival(20, 2), Arrival(3, 1, at=500)], lambda step: step.num_tokens)
    assert run.shares == [[("A", 16)], [("A", 4)], [("A", 1)], [("B", 3)]]
    assert [(m.start, m.stop) for m in run.moments] == [(0, 16), (16, 20), (20, 21), (500, 503)]
    assert (run.first_token(0), run.gaps(0), run.total(0), run.first_token(1)) == (20, [1], 21, 3)


def test_a_scheduler_that_stops_is_noticed():
    with pytest.raises(RuntimeError, match="0 running, 1 waiting"):
        serve(scheduler(blocks=2), [Arrival(20, 1)])


def test_a_token_before_the_end_of_the_prompt_is_noticed():
    class Hasty(Scheduler):
        def _advance(self, *args):
            made = super()._advance(*args)
            made.request.num_pending += not made.samples
            return replace(made, samples=True)

    with pytest.raises(RuntimeError, match="A gets a token when 16 of its 20 tokens are computed"):
        serve(Hasty(BlockManager(100, 4), 4, 16), [Arrival(20, 2)])


def test_a_step_takes_what_is_slower_and_its_keys():
    machine = Machine("", bandwidth=100.0, flops=1000.0, parameters=500.0, kv_bytes=10.0)
    assert machine.predicted(1, keys=0) == 1e3 * 10  # 1,000 bytes of weights
    assert machine.predicted(20, keys=3) == pytest.approx(1e3 * (20 + 0.3))  # 20,000 FLOPs


def test_the_machine_is_read_from_the_newest_record(tmp_path):
    assert "imaginary" in schedules.llama_on_recorded_gpu(tmp_path).name
    old = {"gpu": "G1", "date": "2026-01-01", "copy_bytes_per_s": 1e12}
    new = {"gpu": "G2", "date": "2026-02-01", "copy_bytes_per_s": 2e12, "matmul_flop_per_s": 5e14}
    (tmp_path / "kernels_z.json").write_text(json.dumps(old))
    assert schedules.llama_on_recorded_gpu(tmp_path).flops == schedules.DATA_SHEET_FLOPS
    (tmp_path / "kernels_a.json").write_text(json.dumps(new))
    machine = schedules.llama_on_recorded_gpu(tmp_path)
    assert machine.name == "G2: 2.00 TB/s measured 2026-02-01, 500 TFLOP/s measured"
    assert (machine.bandwidth, machine.flops, machine.kv_bytes) == (2e12, 5e14, 131072)
    assert 7.4e9 < machine.parameters < 7.6e9


def test_recorded_queues_are_those_of_a_gpu(tmp_path):
    assert schedules.recorded_queues(tmp_path) == {}
    queue = {
        "kind": "queue", "model": "random:m", "gpu": "G", "date": "d", "work": {"requests": 3},
        "tokens_per_s": 10.0, "fraction_of_limit": 0.5, "peers": {"p": {"tokens_per_s": 8.0}},
    }  # fmt: skip
    (tmp_path / "engine_g.json").write_text(json.dumps(queue))
    (tmp_path / "engine_h.json").write_text(json.dumps(queue | {"kind": "generate"}))
    found = {"m, 3 requests, G, d": ({"litellama": 10.0, "p": 8.0}, 20.0)}
    assert schedules.recorded_queues(tmp_path) == found


def test_a_trace_is_drawn_as_the_run_that_it_is():
    engine = Scheduler(BlockManager(11, 2), 3, 12, trace_steps=100)
    run = serve(engine, [Arrival(6, 12), Arrival(4, 9), Arrival(5, 6)])
    assert any(step.preempted for step in run.steps)
    traced = schedules.of_trace(engine.trace)
    assert schedules.gantt_alt(traced) == schedules.gantt_alt(run)
    assert traced.token_times == run.token_times
    assert figures.png(schedules.gantt(traced)) == figures.png(schedules.gantt(run))


@pytest.mark.parametrize(("budget", "blocks"), [(12, 14), (16, 16), (32, 40)])
def test_every_chat_of_the_picture_ends_before_its_last_step(budget, blocks):
    run = schedules.played(budget, blocks)
    assert run.end <= schedules.LAST_STEP + 1
    assert schedules.moment_at(schedules.LAST_STEP, budget, blocks) is run.moments[-1]
    for moment in run.moments:
        assert moment.step.num_tokens <= budget


def test_the_words_say_what_the_lesson_says_of_step_6():
    words = schedules.describe(6, 16, 16)
    assert "A 1 (decode), B 1 (decode), C 1 (decode). Waiting: D, E." in words
    assert "3 free" in words


# --- the contest ---------------------------------------------------------------------------------


def first_come(state):
    return in_order(state, state.waiting)


@pytest.mark.parametrize("name", contest.TRACES)
def test_first_come_in_the_contest_is_the_engines_scheduler(name):
    trace = contest.TRACES[name]
    result = contest.Game(trace).play(first_come)
    assert result.broken == 0
    assert (result.mean, result.end) == pytest.approx(contest.first_come(trace))
    assert contest.compete(first_come, name) == (0, 1)


def test_first_come_is_the_engines_scheduler_on_random_traces():
    rng = random.Random(0)
    for _ in range(20):
        arrivals = [
            (rng.uniform(0, 300), rng.randint(1, 900), rng.randint(1, 60)) for _ in range(12)
        ]
        trace = (rng.randint(65, 120), tuple(sorted(arrivals)))
        result = contest.Game(trace).play(first_come)
        assert result.broken in (0, contest.STARVED)
        if not result.broken:
            assert (result.mean, result.end) == pytest.approx(contest.first_come(trace))


def plans_that_break_a_rule():
    def decodes_left_out(state):
        return {job: n for job, n in first_come(state).items() if n != 1}

    return {
        contest.BUDGET_BROKEN: lambda s: in_order(s, s.waiting, budget=10**6),
        contest.POOL_BROKEN: lambda s: in_order(s, s.waiting, look_at_pool=False),
        contest.SEATS_BROKEN: lambda s: in_order(s, shortest(s), seats=99),
        contest.STUCK: lambda s: {},
        contest.STARVED: lambda s: in_order(s, shortest(s, 1e9)),
        contest.STALLED: decodes_left_out,
    }


def test_a_plan_that_changes_a_job_is_refused():
    def cheat(state):
        state.waiting[0].computed = 10**6
        return first_come(state)

    with pytest.raises(ExerciseError, match="changed a job"):
        contest.compete(cheat, "a burst")


def test_a_plan_that_never_ends_is_stopped():
    def swap(state):
        """Two streams take turns to be preempted before they have got anywhere."""
        jobs = (*state.waiting, *state.running)
        if len(jobs) < 2 or any(job.length == job.prompt for job in jobs):
            return first_come(state)
        if state.waiting:
            return dict.fromkeys(state.running, 0) | {state.waiting[0]: 1}
        return first_come(state) | {state.running[-1]: 0}

    game = contest.Game(contest.TRACES["a burst"])
    assert game.play(swap).broken == contest.STUCK
    assert game.steps == contest.MOST_STEPS


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (lambda state: {contest.Job(99, 0.0, 5, 5): 5}, "neither waiting nor running"),
        (lambda state: {job: job.uncomputed + 1 for job in state.waiting}, "6001 tokens for job 0"),
        (lambda state: dict.fromkeys(state.waiting), "whole number"),
        (lambda state: dict.fromkeys(state.waiting, 0.5), "whole number"),
    ],
)
def test_shares_that_make_no_sense_are_refused(shares, words):
    with pytest.raises(ExerciseError, match=words):
        contest.compete(shares, "a burst")


@pytest.mark.parametrize(("rule", "plan"), plans_that_break_a_rule().items())
def test_every_rule_can_be_broken_and_is_named(rule, plan, capsys):
    broken = {contest.compete(plan, name)[0] for name in contest.TRACES}
    assert rule in broken
    assert broken <= {0, rule}
    contest.report(plan)
    assert contest.RULES[rule] in capsys.readouterr().out


def test_a_plan_that_ends_too_late_is_slow():
    """First tokens early, by throwing out whoever has had one; what they had is computed again."""

    def unfair(state):
        had = [job for job in state.running if job.uncomputed == 1]
        fresh = [job for job in state.waiting if job.length == job.prompt]
        if not fresh and not [job for job in state.running if job.length == job.prompt]:
            return first_come(state)
        going = contest.State(
            [], [j for j in state.running if j not in had],
            state.free + sum(j.blocks for j in had), state.now,
        )  # fmt: skip
        shares = in_order(going, sorted(fresh, key=lambda job: job.uncomputed))
        return dict.fromkeys(had, 0) | dict(shares)

    assert [contest.compete(unfair, name) for name in contest.TRACES] == [(0, 2), (0, 2), (0, 0)]
