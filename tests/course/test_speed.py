"""Lesson 17: the arithmetic against records made by hand, and what is said where one is missing."""

import json
import math

import pytest

from litellama.bench import limits
from litellama.course import figures, speed, speed_charts, speed_tables
from litellama.models.presets import PRESETS, preset_config
from tests.fake_record import kernel_record

LLAMA = "llama-3.2-1b"
MACHINE = speed.Machine("A machine", "made up", 1e12, 1e14, 10e9)


def engine_record(step_s: float = 4e-3, **changes) -> dict:
    """A step of Llama-3.2-1B at batch 1 on a GPU that reads 1 TB/s."""
    config = preset_config(LLAMA)
    weights, kv = 2 * speed.parameters(config), config.kv_bytes_per_token(2)

    def peer(scale: float) -> dict:
        steps = [scale * step_s * factor for factor in (1.1, 1, 0.9)]
        repetitions = [{"step_s": step} for step in steps]
        return {"ms_per_token": 1e3 * scale * step_s, "repetitions": repetitions}

    return {
        "kind": "generate", "model": f"random:{LLAMA}", "dtype": "bfloat16", "gpu": "GPU H100",
        "date": "2026-01-02", "weight_bytes": weights, "kv_bytes_per_token": kv,
        "work": {"batch": 1, "prompt_tokens": 100, "new_tokens": 8},
        "step_bytes": limits.step_bytes(weights, kv, 1, 100, 8),
        "copy_bytes_per_s": 0.9e12, "read_bytes_per_s": 1e12,
        "peers": {"litellama": peer(1), "transformers": peer(3)},
        "times_faster_litellama": {
            "transformers": {"decode": 3.0, "decode_pairs": [9.0, 3.0, 3.0]},
        },
        "tokens": {"transformers": {"same": 1, "tie": 2, "different": 3}},
    } | changes  # fmt: skip


def kernels() -> dict:
    """Every recorded case takes 10 µs over its bytes at 1 TB/s, whatever it is."""
    record = kernel_record(gpu="GPU H100", copy_bytes_per_s=0.9e12, matmul_flop_per_s=1e14)
    for row in record["results"]:
        if row["kernel"] == "matvec":
            n, k = map(int, row["case"].split()[-1].split("×"))
            row["bytes"] = 2 * n * k
        if row["kernel"] == "flash_decoding":
            batch, heads, kv_heads, keys, dim = (
                int(word.lstrip("BHKVThd")) for word in row["case"].split()
            )
            row["shape"] = [[batch, heads, dim], [batch, kv_heads, keys, dim]]
            row["bytes"] = 4 * batch * kv_heads * keys * dim
        row["median_us"] = 10 + row.get("bytes", 0) / 1e6
    return record


@pytest.mark.parametrize("name", [name for name in PRESETS if "llava" not in name])
def test_a_step_reads_all_weights_but_a_table_of_rows(name):
    c = preset_config(name)
    layer = 2 * (c.q_size + c.kv_size) * c.hidden_size + 3 * c.intermediate_size * c.hidden_size
    matrices = c.num_layers * layer + c.vocab_size * c.hidden_size
    assert matrices < speed.parameters(c) < 1.001 * matrices


def test_a_prediction_is_the_formula():
    c = preset_config(LLAMA)
    p = speed.predict(c, MACHINE, batch=3, context=100)
    moved = limits.step_bytes(2 * speed.parameters(c), c.kv_bytes_per_token(2), 3, 100, 0)
    assert p.weights + p.keys == pytest.approx(moved / 1e12)
    assert p.arithmetic == pytest.approx(3 * (2 * speed.parameters(c) + 4 * 16 * 2048 * 100) / 1e14)
    assert p.step == p.weights + p.keys
    assert (p.limited_by, p.tokens_per_s) == ("reading the weights", 3 / p.step)
    checked = speed.predict(c, MACHINE, batch=3, context=100, rows=5)
    assert (checked.keys, checked.arithmetic) == (p.keys, pytest.approx(5 * p.arithmetic))


@pytest.mark.parametrize(("context", "knee", "after"), [
    (100_000, "keys", "reading keys and values"), (10, "arithmetic", "the arithmetic"),
])  # fmt: skip
def test_behind_a_knee_something_else_is_the_limit(context, knee, after):
    c = preset_config(LLAMA)
    at = speed.knees(c, MACHINE, context)[knee]
    assert speed.predict(c, MACHINE, 0.99 * at, context).limited_by == "reading the weights"
    assert speed.predict(c, MACHINE, 1.01 * at, context).limited_by == after
    if knee == "keys":
        assert math.isinf(speed.knees(c, MACHINE, context)["arithmetic"])


def test_the_parts_of_a_step_add_up_to_what_was_measured():
    record = engine_record()
    parts = speed.account(record, kernels())
    assert sum(part.seconds for part in parts) == pytest.approx(4e-3)
    by_label = {part.label: part for part in parts}
    assert by_label["bytes at the memory's speed"].seconds == pytest.approx(
        record["step_bytes"] / 1e12
    )
    for label in ("16 × qkv, over its bytes", "16 × down, over its bytes"):
        assert by_label[label].seconds == pytest.approx(16 * 10e-6)
    assert by_label["lm_head, over its bytes"].seconds == pytest.approx(10e-6)
    (stand_in,) = (part for part in parts if "attention" in part.label)
    assert (stand_in.kind, stand_in.seconds) == ("stand-in", pytest.approx(160e-6))
    assert parts[-1].kind == "rest"


def test_recorded_launches_split_the_rest():
    median = {"graph": {"median": 3000.0}}
    parts = speed.account(
        engine_record(), kernels(), {"step_us": median, "engine_us": {"graph": {"median": 3700.0}}}
    )
    assert [part.seconds for part in parts[-2:]] == [pytest.approx(7e-4), pytest.approx(3e-4)]
    assert sum(part.seconds for part in parts) == pytest.approx(4e-3)


def kernels_without(*names: str) -> dict:
    record = kernels()
    record["results"] = [row for row in record["results"] if row["kernel"] not in names]
    return record


@pytest.mark.parametrize("missing", ["matvec", "flash_decoding", "sample"])
def test_without_a_part_there_is_no_account(missing):
    assert speed.account(engine_record(), kernels_without(missing)) == []


def test_older_records_have_rotation_and_cache_write_apart():
    def labels(record: dict) -> set[str]:
        return {part.label for part in speed.account(engine_record(), record)}

    assert labels(kernels()) >= {"16 × rope_write_kv"}
    assert labels(kernels_without("rope_write_kv")) >= {"16 × rope", "16 × write_kv"}
    assert labels(kernels_without("rope_write_kv", "rope")) == set()


def test_only_one_llama_sequence_can_be_taken_apart():
    assert speed.account(engine_record(model="random:qwen3-0.6b"), kernels()) == []
    assert speed.account(engine_record(model="smollm2"), kernels()) == []
    work = {"batch": 2, "prompt_tokens": 100, "new_tokens": 8}
    assert speed.account(engine_record(work=work), kernels()) == []


def test_records_of_two_gpus_are_not_mixed():
    other = engine_record(gpu="GPU A100")
    assert speed.account(other, kernels()) == []
    assert speed.recorded_machine(kernels(), other).bandwidth == 0.9e12
    later = engine_record(date="later")
    assert speed.recorded_machine(kernels(), later).bandwidth == 1e12
    assert speed.recorded_machine(kernels(), later).source.startswith("measured later and ")
    assert speed.recorded_machine(kernels()).source == f"measured {kernels()['date']}"


def test_a_case_within_five_per_cent_is_no_loss():
    record = kernels()
    for row in record["results"]:
        fast = row["peer"] == "SDPA cuDNN" and row["case"] == "hd128 T4096"
        for key in ("tflop_per_s", "gb_per_s"):
            if key in row:
                row[key] = 130.0 if fast else 104.0 if row["peer"] != "litellama" else 100.0
    assert [(line.kernel, line.times_faster) for line in speed.losses(record)] == [
        ("flash_attention", pytest.approx(100 / 130))
    ]


def test_a_queue_is_its_reading_its_prompts_and_the_rest():
    run = {"total_s": 10.0, "steps": 5, "prompt_tokens": 1000, "fraction_of_limit": 0.4}
    record = {"weight_bytes": 2e9, "repetitions": [run, run | {"total_s": 12.0}]}
    parts = speed.queue_account(record, flops=2e12)
    assert (parts["reading"], parts["prompts"], parts["rest"]) == pytest.approx((4, 1, 5))


def test_a_round_of_drafts_makes_the_sum_of_a_geometric_series():
    for accepted in (0.0, 0.5, 0.8, 1.0):
        expected = sum(accepted**i for i in range(5))
        assert speed.tokens_per_round(accepted, 4) == pytest.approx(expected)


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(speed_charts, "show", lambda figure, alt: said.append(alt))
    return said


def test_nothing_recorded_is_said(tmp_path, monkeypatch, capsys, shown):
    assert speed.engines(folder=tmp_path) == []
    assert speed.kernel_record(tmp_path) is None
    assert speed.recorded_machine(None) is None
    monkeypatch.setattr(speed_tables.speed, "engines", lambda kind="generate", gpu=True: [])
    speed_tables.print_steps([])
    speed_tables.print_pairs([])
    speed_tables.print_account([], None)
    for function in ("matrices", "losses", "queues", "ceilings"):
        getattr(speed_tables, f"print_{function}")(None)
    speed_tables.print_prefixes()
    speed_charts.show_account([], None)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 8 + len(speed.DATA_SHEETS)
    assert shown == []


def test_a_record_is_shown_with_its_gpu_and_date(tmp_path, capsys, shown):
    (tmp_path / "engine_a.json").write_text(json.dumps(engine_record()), encoding="utf-8")
    (tmp_path / "kernels_a.json").write_text(json.dumps(kernels()), encoding="utf-8")
    (record,), of_kernels = speed.engines(folder=tmp_path), speed.kernel_record(tmp_path)
    assert speed.find([record], LLAMA) == record
    assert speed.recorded_machine(of_kernels, record).memory == 80e9
    parts = speed.account(record, of_kernels)
    speed_charts.show_step(record)
    speed_charts.show_account(parts, record)
    for said in shown:
        assert "GPU H100, 2026-01-02" in said
    assert "measured 4,000" in shown[1]
    speed_tables.print_steps([record])
    speed_tables.print_pairs([record])
    speed_tables.print_account(parts, record)
    speed_tables.print_agreement([record])
    out = capsys.readouterr().out
    for words in ("3.00 × litellama's time", "mean 5.00, median 3.00", "from 3,600 to 4,400"):
        assert words in out
    assert "1 the same, 2 part at a tie, 3 elsewhere" in out


def test_the_records_beside_the_package_can_all_be_shown(shown, capsys):
    of_kernels = speed.kernel_record()
    for record in [*speed.engines(), *speed.engines(gpu=False)]:
        speed_charts.show_step(record)
        speed_charts.show_account(speed.account(record, of_kernels or {"results": []}), record)
    for function in ("matrices", "losses", "queues", "ceilings"):
        getattr(speed_tables, f"print_{function}")(of_kernels)
    speed_tables.print_prefixes()
    assert capsys.readouterr().out


def test_the_widget_says_what_it_draws():
    machines = {m.name: m for m in (*speed.DATA_SHEETS, MACHINE)}
    said = speed_charts.describe(machines, LLAMA, "A machine", 1, 1024, 16)
    assert "at most 399 tokens/s, 399 for each" in said
    assert "the limit is reading the weights. 2.5 GB" in said
    assert "more than the 10 GB" in speed_charts.describe(
        machines, LLAMA, "A machine", 256, 8192, 4
    )
    for name in machines:
        figure = speed_charts.draw(machines, "llama-3.1-8b", name, 64, 16384, 8)
        assert figures.png(figure).startswith(b"\x89PNG")


def test_the_curves_and_roofs_are_said_in_words():
    c = preset_config(LLAMA)
    said = speed_charts.tokens_by_batch_alt(c, MACHINE, 1024, {8: 1000.0})
    assert "keys outweigh weights from batch 74 on" in said
    assert "Measured: batch 8 1,000" in said
    figures.png(speed_charts.tokens_by_batch(c, MACHINE, 1024, {8: 10.0}))
    work = {"1 token": 1, "prompt": 512}
    assert "memory limits 1 token." in speed_charts.roofs_alt([MACHINE], work)
    figures.png(speed_charts.roofs([MACHINE], work))
