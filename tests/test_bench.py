"""The measurements: equal work, honest ratios, and a record that says everything."""

import json
from pathlib import Path

import pytest
import torch

from litellama.bench import engine, kernels, machine
from litellama.errors import RequestError


class FakePeer:
    """Answers with fixed tokens; ``log`` collects the order of the calls."""

    def __init__(self, name: str, log: list, token: int = 7) -> None:
        self.name, self.log, self.token = name, log, token

    def generate(self, prompts: engine.Prompts, new_tokens: int) -> engine.Prompts:
        self.log.append((self.name, new_tokens, prompts))
        return [[self.token] * new_tokens for _ in prompts]


def test_work_is_equal_and_alternates() -> None:
    log: list = []
    work = engine.Work(batch=2, prompt_tokens=5, new_tokens=4, repeats=3)
    peers = [FakePeer("a", log), FakePeer("b", log)]
    times, outputs = engine.alternate(peers, work, 100, progress=lambda message: None)

    assert [len(times[name]) for name in "ab"] == [3, 3]  # the warm-up is not counted
    assert len(outputs) == 4  # but its tokens are compared too
    by_peer = {name: [(n, p) for peer, n, p in log if peer == name] for name in "ab"}
    assert by_peer["a"] == by_peer["b"], "both sides get the same prompts and lengths"
    prompts = [str(p) for _, p in by_peer["a"]]
    assert len(set(prompts)) == len(prompts), "a cached prefix must not help: prompts are fresh"
    assert all(len(row) == 5 for _, rows in by_peer["a"] for row in rows)
    first_of_turn = [name for i, (name, _, _) in enumerate(log) if i % 4 == 0]
    assert first_of_turn == ["b", "a", "b", "a"], "the peers take turns at going first"


def test_a_peer_that_makes_too_few_tokens_is_refused() -> None:
    class Short(FakePeer):
        def generate(self, prompts: engine.Prompts, new_tokens: int) -> engine.Prompts:
            return [row[:-1] for row in super().generate(prompts, new_tokens)]

    with pytest.raises(RequestError, match="made \\[0\\] tokens where 1 each"):
        engine.alternate([Short("s", [])], engine.Work(), 10, progress=lambda message: None)


def test_medians_and_ratios_by_hand() -> None:
    def repetitions(*steps_ms: float) -> list[engine.Repetition]:
        return [engine.Repetition(0.010, 0.010 + 9 * ms / 1e3, 10) for ms in steps_ms]

    times = {"litellama": repetitions(1, 2, 6), "transformers": repetitions(5, 4, 30)}
    work = engine.Work(batch=2, new_tokens=10)
    summary = engine.summarise(times, work, weight_bytes=1000, bandwidth=1e6)

    ours = summary["peers"]["litellama"]
    assert ours["ms_per_token"] == pytest.approx(2)
    assert ours["first_token_ms"] == pytest.approx(10)
    assert ours["decode_tokens_per_s"] == pytest.approx(2 / 0.002)
    assert ours["tokens_per_s"] == pytest.approx(2 * 10 / 0.028)
    assert ours["fraction_of_limit"] == pytest.approx(0.5)  # 1 ms of reading in a 2 ms step
    # The median of the ratios of each pair, 5, 2 and 5, and not the ratio of the medians, 5 / 2.
    assert summary["times_faster_litellama"]["transformers"]["decode"] == pytest.approx(5)


def test_tokens_are_the_same_or_a_tie_or_different() -> None:
    prompt = [[1, 2]]
    outputs = [
        (prompt, {"a": [[3, 4]], "b": [[3, 4]]}),
        (prompt, {"a": [[3, 5]], "b": [[3, 6]]}),
        (prompt, {"a": [[3, 5]], "b": [[4, 5]]}),
    ]
    asked = []

    def gap(ids: list[int], a: int, b: int) -> float:
        asked.append((list(ids), a, b))
        return 0.0 if (a, b) == (5, 6) else 0.5

    assert engine.compare_tokens(outputs, gap) == {"same": 1, "tie": 1, "different": 1}
    assert asked == [([1, 2, 3], 5, 6), ([1, 2], 3, 4)]


@pytest.mark.parametrize("name", ["batch", "prompt_tokens", "new_tokens", "repeats"])
def test_impossible_work_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} must be at least"):
        engine.Work(**{name: 0})


@pytest.mark.parametrize("batch", [1, 3])
def test_both_engines_on_a_tiny_model(tiny_llama: Path, batch: int) -> None:
    work = engine.Work(batch=batch, prompt_tokens=9, new_tokens=6, repeats=2)
    seen: list[str] = []
    record = engine.run(str(tiny_llama), work, "cpu", "float32", progress=seen.append)

    assert record["tokens"]["different"] == 0
    assert record["tokens"]["same"] + record["tokens"]["tie"] == batch * 3
    assert set(record["peers"]) == {"litellama", "transformers"}
    for peer in record["peers"].values():
        assert peer["ms_per_token"] > 0
        assert len(peer["repetitions"]) == 2
    assert {"torch", "transformers", "python", "litellama"} <= set(record["versions"])
    assert record["threads"] == torch.get_num_threads()
    assert any("repetition 2 of 2" in message for message in seen)
    json.dumps(record)  # plain data


def test_the_weights_of_a_step(tiny_llama: Path, tmp_path: Path) -> None:
    from litellama import LLM
    from tests.checkpoint_maker import make_llama

    def bytes_of(folder: Path) -> tuple[int, int]:
        llm = LLM(folder, device="cpu", dtype="float32")
        everything = sum(p.numel() * 4 for p in llm.model.parameters())
        return engine.weight_bytes(llm), everything - llm.config.vocab_size * 60 * 4

    step, _ = bytes_of(tiny_llama)  # tied: the embedding is read in full, as the output matrix
    untied_step, untied_all_but_embedding = bytes_of(
        make_llama(tmp_path / "untied", tie_word_embeddings=False)
    )
    assert untied_step == untied_all_but_embedding == step


def test_bandwidth_is_of_the_order_of_memory() -> None:
    device = torch.device("cpu")
    for bandwidth in (machine.copy_bandwidth(device), machine.read_bandwidth(device)):
        assert 1e8 < bandwidth < 1e13


@pytest.mark.parametrize("name", kernels.CASES)
def test_each_kernel_peer_computes_the_same_thing(name: str) -> None:
    """Comparing speeds means nothing unless the results agree."""
    case = kernels.CASES[name]
    inputs = case.make(3, 256)
    ours, theirs = case.ours(*inputs), case.torch(*inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "elements"),
    [
        ("mul", 256, 3 * 2 * 256),
        ("softmax", 256, 2 * 2 * 256),
        ("rms_norm", 256, 2 * 2 * 256 + 256),
        ("skip_rms_norm", 256, 4 * 2 * 256 + 256),
        ("rope", 512, 2 * 2 * (4 + 1) * 128 + 2 * 2 * 64),
        ("swiglu", 256, 2 * (256 + 128)),
    ],
)
def test_bytes_by_hand(name: str, width: int, elements: int) -> None:
    inputs = kernels.CASES[name].make(2, width)
    assert kernels.CASES[name].bytes_moved(inputs) == 4 * elements
    half = tuple(t.half() for t in inputs)
    assert kernels.CASES[name].bytes_moved(half) == 2 * elements


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_are_not_timed_on_a_cpu() -> None:
    with pytest.raises(RequestError, match="timed on a GPU"):
        kernels.run(["mul"])


@pytest.mark.gpu
def test_kernels_are_timed_on_a_gpu() -> None:
    record = kernels.run(["mul"], tokens=(4096,), repeats=3)
    assert [row["peer"] for row in record["results"]] == [
        "litellama",
        "torch eager",
        "torch.compile",
    ]
    assert all(0.1 < row["fraction_of_copy"] < 1.2 for row in record["results"])
    with pytest.raises(RequestError, match="no kernel 'nope'"):
        kernels.run(["nope"])


def test_recorded_files_say_where_they_come_from() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    records = sorted(folder.glob("*.json"))
    assert records, f"no records in {folder}"
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("command", "date", "cpu", "versions"):
            assert record[key], f"{path.name} does not say its {key}"
        assert "/" not in record["command"], f"{path.name}: a path of one machine in the command"
