"""Lesson 15's timelines: what a trace becomes, and what is shown of a record, or without one."""

import json

import pytest

from litellama.course import launches, tracing


def event(kind: str, start: float, duration: float, number: int, name: str = "k_kernel") -> dict:
    return {
        "cat": kind, "ts": start, "dur": duration, "name": name, "args": {"correlation": number},
    }  # fmt: skip


def trace() -> list[dict]:
    """Five steps of two kernels; the third is the step of middle length."""
    events: list[dict] = [{"ph": "M", "name": "process_name"}]
    for step, length in enumerate((9.0, 1.0, 5.0, 7.0, 3.0)):
        start = tracing.GAP_US * step
        for i in range(2):
            number = 2 * step + i
            events.append(event("cuda_driver", start + 4 * i, 3.0, number, "cuLaunchKernel"))
            events.append(event("kernel", start + 5 + 4 * i, length, number))
    return events[::-1]


def test_a_trace_gives_the_step_of_middle_length():
    line = tracing.one_step(trace())
    assert line["launches"] == [[0.0, 3.0], [4.0, 3.0]]
    assert line["kernels"] == [[0, 0, 5.0, 5.0], [0, 1, 9.0, 5.0]]
    assert line["names"] == ["k"]
    assert (line["busy_us"], line["span_us"], line["lost"]) == (9.0, 14.0, 0)


def test_a_stall_inside_a_step_does_not_part_it():
    events = trace()
    for event in events:
        if event.get("args", {}).get("correlation") == 5:  # the second kernel of the middle step
            event["ts"] += 0.7 * tracing.GAP_US if event["cat"] == "kernel" else 0.0
        elif event.get("args", {}).get("correlation", 0) > 5:
            event["ts"] += 0.8 * tracing.GAP_US
    line = tracing.one_step(events)
    assert [kernel[1] for kernel in line["kernels"]] == [0, 1]


def test_a_kernel_whose_launch_was_lost_is_counted():
    events = [e for e in trace() if e.get("name") != "cuLaunchKernel"]
    line = tracing.one_step(events)
    assert line["lost"] == 2
    assert [kernel[1] for kernel in line["kernels"]] == [-1, -1]


def test_steps_that_cannot_be_told_apart_are_refused():
    with pytest.raises(RuntimeError, match="1 steps in a trace of 5"):
        tracing.one_step([event("kernel", i, 1.0, i) for i in range(9)])


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("flash_decoding_kernel", "flash_decoding"),
        ("void cublasLt::splitKreduce_kernel<32, 16>(x)", "matmul"),
        ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "matmul"),
        ("void at::native::vectorized_elementwise_kernel<4, F>(int)", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::other<int>(long)", "other"),
    ],
)
def test_names_are_short(name, short):
    assert tracing.short_name(name) == short


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(launches, "show", lambda figure, alt: said.append(alt))
    return said


def test_nothing_recorded_is_said(tmp_path, monkeypatch, capsys, shown):
    monkeypatch.setattr(launches, "BENCHMARKS", tmp_path)
    cases = launches.recorded()
    launches.show_timeline(launches.find(cases, "a", 1))
    launches.show_account(None)
    launches.show_steps(cases, "a")
    launches.show_overlap(cases)
    assert capsys.readouterr().out.count("recorded") == 4
    assert shown == []


def test_a_record_is_shown_with_its_gpu_and_date(tmp_path, monkeypatch, capsys, shown):
    line = tracing.one_step(trace())
    ways = {launches.EAGER: 40.0, launches.GRAPH: 10.0, launches.NO_OVERLAP: 12.0}
    times = {way: {"median": time, "q1": time, "q3": time} for way, time in ways.items()}
    case = {
        "model": "a", "batch": 1, "peer": "litellama", "kernels": 2, "step_us": times,
        "host_us": times, "timeline": {launches.EAGER: line, launches.GRAPH: line},
    }  # fmt: skip
    empty = {"model": "a", "batch": 8, "peer": "litellama", "step_us": {}}
    record = {"gpu": "GPU-1", "date": "2026-01-02", "cases": [case, empty]}
    (tmp_path / "launches_x.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(launches, "BENCHMARKS", tmp_path)
    older = record | {"date": "2025-12-31"}
    (tmp_path / "older_launches_x.json").write_text(json.dumps(older), encoding="utf-8")
    assert [c["date"] for c in launches.recorded("older_*.json")] == ["2025-12-31"]
    (found,) = cases = launches.recorded()
    launches.show_timeline(launches.find(cases, "a", 1))
    launches.show_steps(cases, "a")
    for said in shown:
        assert "GPU-1, 2026-01-02" in said
    assert "the GPU computes for 9 of 14 µs" in shown[0]
    assert "batch 1, launched one by one 40; batch 1, one graph 10" in shown[1]
    launches.show_account(found)
    launches.show_overlap(cases)
    out = capsys.readouterr().out
    assert "20.0 µs of the host's time for each" in out
    assert "+20.0%" in out


def test_the_widget_says_what_it_draws():
    assert launches.describe(2, 5, 21) == (
        "12 kernels of 2 µs, 5 µs to launch one. launched one by one: 62 µs, the GPU busy 39%; "
        "one graph: 32 µs, the GPU busy 75%. 21 requests run in the graph of size 24, with 3 rows "
        "padding."
    )
    launches.draw(20, 1, 32)
