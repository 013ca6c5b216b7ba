"""The measurements: equal work, honest ratios, and a record that says everything."""

import importlib.util
import json
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F

from litellama import LLM, SamplingParams
from litellama import kernels as ops
from litellama.bench import (
    attention,
    elementwise,
    engine,
    kernels,
    limits,
    machine,
    matvec,
    peers,
    report,
    serving,
    serving_kernels,
    timing,
)
from litellama.bench.case import Case, Peer, normal
from litellama.bench.peers import Prompts
from litellama.config import ModelConfig
from litellama.errors import RequestError
from litellama.models import presets
from tests.fake_record import kernel_record

ROOT = Path(__file__).parents[1]


def words(vocab_size: int) -> ModelConfig:
    """Of a model that reads no pictures."""
    return replace(presets.preset_config("llama-3.2-1b"), vocab_size=vocab_size)


class FakePeer:
    """Answers with fixed tokens; ``log`` collects the order of the calls."""

    def __init__(self, name: str, log: list, token: int = 7) -> None:
        self.name, self.log, self.token = name, log, token

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        self.log.append((self.name, new_tokens, prompts))
        return [[self.token] * new_tokens for _ in prompts]

    def warm_up_tokens(self, new_tokens: int) -> int:
        return 2


def test_work_is_equal_and_alternates() -> None:
    log: list = []
    work = engine.Work(batch=2, prompt_tokens=5, new_tokens=4, repeats=3)
    both = [FakePeer("a", log), FakePeer("b", log)]
    watched: list = []

    def watch(name: str) -> AbstractContextManager[None]:
        watched.append(name)
        return nullcontext()

    times, outputs = engine.alternate(both, work, words(100), lambda message: None, watch)

    assert [(name, n) for name, n, _ in log[:4]] == [("a", 2), ("a", 1), ("b", 2), ("b", 1)]
    timed = log[4:]
    assert [len(times[name]) for name in "ab"] == [3, 3]  # the warm-up is not counted
    assert [list(made) for _, made in outputs] == [["a", "b"]] * 3
    by_peer = {name: [(n, p) for peer, n, p in timed if peer == name] for name in "ab"}
    assert by_peer["a"] == by_peer["b"], "both sides get the same prompts and lengths"
    prompts = [str(p) for _, _, p in log[:4]] + [str(p) for _, p in by_peer["a"]]
    assert len(set(prompts)) == len(prompts), "a cached prefix must not help: prompts are fresh"
    assert all(len(row) == 5 for _, rows in by_peer["a"] for row in rows)
    first_of_turn = [name for i, (name, _, _) in enumerate(timed) if i % 4 == 0]
    assert first_of_turn == ["a", "b", "a"], "the peers take turns at going first"
    assert watched == ["a", "b", "a", "b", "b", "a", "a", "b"]


def test_a_peer_that_makes_too_few_tokens_is_refused() -> None:
    class Short(FakePeer):
        def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
            return [row[:-1] for row in super().generate(prompts, new_tokens)]

    with pytest.raises(RequestError, match="made \\[0\\] tokens where 1 each"):
        engine.alternate([Short("s", [])], engine.Work(), words(10), lambda message: None)


def test_medians_and_ratios_by_hand() -> None:
    def repetitions(*steps_ms: float) -> list[engine.Repetition]:
        return [engine.Repetition(0.010, 0.010 + 9 * ms / 1e3, 10) for ms in steps_ms]

    times = {"litellama": repetitions(1, 2, 6), "transformers": repetitions(5, 4, 30)}
    work = engine.Work(batch=2, new_tokens=10)
    summary = engine.summarise(times, work, step_bytes=1000, bandwidth=1e6)

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
        (prompt, {"a": [[3, 4]], "b": [[3, 4]], "c": [[3, 4]]}),
        (prompt, {"a": [[3, 5]], "b": [[3, 6]], "c": [[3, 5]]}),
        (prompt, {"a": [[3, 5]], "b": [[4, 5]], "c": [[3, 5]]}),
    ]
    asked = []

    def gap(ids: list[int], a: int, b: int) -> float:
        asked.append((list(ids), a, b))
        return 0.0 if (a, b) == (5, 6) else 0.5

    assert engine.compare_tokens(outputs, gap) == {
        "b": {"same": 1, "tie": 1, "different": 1, "largest_gap": 0.5},
        "c": {"same": 3, "tie": 0, "different": 0, "largest_gap": 0.0},
    }
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

    tokens = record["tokens"]["transformers"]
    assert tokens["different"] == 0
    assert tokens["same"] + tokens["tie"] == batch * 2
    assert set(record["peers"]) == {"litellama", "transformers"}
    for peer in record["peers"].values():
        assert peer["ms_per_token"] != 0  # a difference of two times: below 0 if one was disturbed
        assert len(peer["repetitions"]) == 2
        assert "peak_memory_bytes" not in peer  # counted on a GPU only
    assert {"torch", "transformers", "python", "litellama"} <= set(record["versions"])
    assert record["threads"] == torch.get_num_threads()
    # Two of keys and values, 3 layers, 3 heads of 10, float32; 9 + 6 / 2 keys on average.
    assert record["kv_bytes_per_token"] == 2 * 3 * 3 * 10 * 4
    assert record["step_bytes"] == record["weight_bytes"] + batch * 720 * 12
    assert any("repetition 2 of 2" in message for message in seen)
    json.dumps(record)  # plain data


TINY = {
    "vocab_size": 96, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 256, "eos_token_id": 3, "bos_token_id": None,
}  # fmt: skip


@pytest.fixture(params=["llama-3.2-1b", "llama-3.1-8b", "qwen2.5-0.5b", "qwen3-0.6b"])
def tiny_preset(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset made small; one of them with an output matrix of its own."""
    small = presets.PRESETS[request.param] | TINY
    monkeypatch.setitem(presets.PRESETS, request.param, small)
    return f"random:{request.param}"


def test_transformers_gets_the_very_weights_of_a_preset(tiny_preset: str) -> None:
    llm = LLM(tiny_preset, device="cpu", dtype="float32")
    model = peers.transformers_model(llm)
    ids = [5, 9, 2, 77, 31]
    theirs = model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(llm.logits(ids), theirs, atol=1e-4, rtol=1e-4)
    pointers = {p.untyped_storage().data_ptr() for p in llm.model.parameters()}
    assert all(p.untyped_storage().data_ptr() in pointers for p in model.parameters())


@pytest.fixture
def tiny_llava(monkeypatch: pytest.MonkeyPatch) -> str:
    """LLaVA made small: a picture is 2 x 2 tokens."""
    whole = presets.PRESETS["llava-1.5-7b"]
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
              "num_attention_heads": 2, "image_size": 12, "patch_size": 6}  # fmt: skip
    small = whole | {
        "text_config": whole["text_config"] | TINY,
        "vision_config": whole["vision_config"] | vision,
        "image_token_index": 95,
    }
    monkeypatch.setitem(presets.PRESETS, "llava-1.5-7b", small)
    return "random:llava-1.5-7b"


def test_both_sides_see_the_same_pictures(tiny_llava: str) -> None:
    """Equal tokens are equal pictures: with pictures of its own transformers answers otherwise."""
    work = engine.Work(batch=3, prompt_tokens=5, new_tokens=6, repeats=2)
    record = engine.run(tiny_llava, work, "cpu", "float32")
    assert record["tokens"]["transformers"] == {
        "same": 6, "tie": 0, "different": 0, "largest_gap": 0.0,
    }  # fmt: skip
    assert record["picture_tokens"] == 4
    # The tower has done its work: a step reads the decoder's weights, and 4 + 5 + 6 / 2 keys.
    llm = LLM(tiny_llava, device="cpu", dtype="float32")
    decoder = sum(p.nbytes for p in llm.model.language_model.parameters())
    assert record["weight_bytes"] == decoder - 96 * 24 * 4
    kv = 2 * 2 * 2 * 8 * 4
    assert record["step_bytes"] == record["weight_bytes"] + 3 * kv * 12

    model = peers.transformers_model(llm)
    prompts = [peers.draw_prompt(5, llm.config, random.Random(seed)) for seed in range(2)]
    assert prompts[0][:4] == [95] * 4
    assert 95 not in prompts[0][4:]
    theirs = peers.Transformers(model, llm)
    here, there = theirs.inputs(prompts)["pixel_values"]
    assert here.shape == (3, 12, 12)
    assert not torch.equal(here, there)
    # What follows a prompt does not change its picture.
    torch.testing.assert_close(theirs.inputs([prompts[0] + [1, 2]])["pixel_values"][0], here)
    ids, image = prompts[0], peers.pictures_of(prompts, llm.config)[0]
    logits = llm.logits(ids, [image])[-1]
    assert theirs.gap(ids, 7, 9) == pytest.approx(abs(float(logits[7] - logits[9])), abs=1e-5)


def test_a_word_is_never_a_picture_s(tiny_llava: str) -> None:
    config = presets.preset_config(tiny_llava)
    drawn = peers.draw_words(2000, config, random.Random(0))
    assert 95 not in drawn
    assert set(drawn) == set(range(95))
    assert max(peers.draw_words(2000, words(96), random.Random(0))) == 95
    assert peers.pictures_of([drawn], words(96)) == []


def test_a_preset_without_peers(tiny_preset: str) -> None:
    work = engine.Work(batch=2, prompt_tokens=5, new_tokens=3, repeats=1)
    said: list[str] = []
    record = engine.run(tiny_preset, work, "cpu", "float32", against=[], progress=said.append)
    assert "loading litellama" in said
    assert not any("transformers" in message for message in said)
    assert list(record["peers"]) == ["litellama"]
    assert record["tokens"] == record["times_faster_litellama"] == {}


@pytest.mark.parametrize(
    ("against", "message"),
    [(["eager", "vllm"], "no peer 'vllm': choose from eager, compiled"), (["compiled"], "a GPU")],
)
def test_peers_that_cannot_be_had_are_refused(
    tiny_llama: Path, against: list[str], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        engine.run(str(tiny_llama), engine.Work(), "cpu", "float32", against=against)


def test_the_limit_of_a_step_by_hand() -> None:
    # A prompt of 3 and 4 new tokens: the prompt's step makes the first, and the steps of the
    # other three see 4, 5 and 6 keys.
    assert limits.mean_context(3, 4) == (4 + 5 + 6) / 3
    assert limits.step_bytes(1000, 10, 2, 3, 4) == 1000 + 2 * 10 * 5
    # Two requests at once: as many steps as the longer answer has tokens.
    assert limits.serving_bytes(1000, 10, [(3, 4), (7, 2)], 2) == 4 * 1000 + 10 * (4 + 5 + 6 + 8)
    # One at a time: a step for each of the six tokens.
    assert limits.serving_bytes(1000, 10, [(3, 4), (7, 2)], 1) == 6 * 1000 + 10 * (15 + 8)


def test_a_queue_of_unequal_requests(tiny_llama: Path) -> None:
    work = serving.Queue(requests=5, shortest=2, longest=9, max_num_seqs=3, repeats=2)
    seen: list[str] = []
    record = serving.run_queue(str(tiny_llama), work, "cpu", "float32", progress=seen.append)
    assert record["kind"] == "queue"
    assert len(record["repetitions"]) == 2
    first, second = record["repetitions"]
    assert first["output_tokens"] != second["output_tokens"], "each repetition draws anew"
    for measured in record["repetitions"]:
        rate = measured["output_tokens"] / measured["total_s"]
        assert measured["tokens_per_s"] == pytest.approx(rate)
        assert measured["steps"] >= measured["output_tokens"] / 3
        assert 0 < measured["fraction_of_limit"] < 1
    assert "warm-up" in seen
    json.dumps(record)


def test_a_queue_is_drawn_from_its_lengths() -> None:
    work = serving.Queue(requests=500, shortest=3, longest=6)
    prompts, answers = serving.draw_queue(work, words(50), random.Random(0))
    assert {len(prompt) for prompt in prompts} == set(answers) == {3, 4, 5, 6}
    assert max(max(prompt) for prompt in prompts) == 49


def test_a_queue_that_is_cut_short_has_no_speed(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = LLM.generate

    def short(self: LLM, prompts: Prompts, params: list[SamplingParams]) -> list:
        return honest(self, prompts, [replace(p, max_tokens=1) for p in params])

    monkeypatch.setattr(LLM, "generate", short)
    work = serving.Queue(requests=2, shortest=2, longest=4, repeats=1)
    with pytest.raises(RequestError, match="made 2 tokens where"):
        serving.run_queue(str(tiny_llama), work, "cpu", "float32")


def test_a_shared_prefix_is_found_in_the_cache(tiny_llama: Path) -> None:
    work = serving.SharedPrefix(requests=3, prefix_tokens=64, own_tokens=8, repeats=1)
    record = serving.run_prefix(str(tiny_llama), work, "cpu", "float32")
    (measured,) = record["repetitions"]
    assert measured["fraction_cached"] == pytest.approx(64 / 72)
    assert measured["same_tokens"] == 3
    for which, ours in (("cached", "cached_s"), ("together", "together_s")):
        ratio = measured["without_s"] / measured[ours]
        assert record["times_faster"][which] == pytest.approx(ratio)
    json.dumps(record)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: serving.Queue(requests=0), "requests must be at least 1"),
        (lambda: serving.Queue(shortest=9, longest=3), r"shortest \(9\) is above longest \(3\)"),
        (lambda: serving.SharedPrefix(own_tokens=-1), "own_tokens must be at least 1, got -1"),
    ],
)
def test_impossible_serving_is_refused(make: Callable, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make()


def test_the_weights_of_a_step(tiny_llama: Path, tmp_path: Path) -> None:
    from tests.checkpoint_maker import make_llama

    def bytes_of(folder: Path) -> tuple[int, int]:
        llm = LLM(folder, device="cpu", dtype="float32")
        everything = sum(p.numel() * 4 for p in llm.model.parameters())
        return limits.weight_bytes(llm), everything - llm.config.vocab_size * 60 * 4

    step, _ = bytes_of(tiny_llama)  # tied: the embedding is read in full, as the output matrix
    untied_step, untied_all_but_embedding = bytes_of(
        make_llama(tmp_path / "untied", tie_word_embeddings=False)
    )
    assert untied_step == untied_all_but_embedding == step


def test_a_recorded_command_has_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "/somewhere/bin/litellama",
        "bench",
        "-m",
        "random:qwen3-0.6b",
        "-o",
        "/tmp/a b/x.json",
    ]
    monkeypatch.setattr("sys.argv", words)
    assert machine.command() == "litellama bench -m random:qwen3-0.6b -o x.json"


def test_bandwidth_is_of_the_order_of_memory() -> None:
    device = torch.device("cpu")
    for bandwidth in (machine.copy_bandwidth(device), machine.read_bandwidth(device)):
        assert 1e8 < bandwidth < 1e13


@pytest.mark.parametrize("name", elementwise.KERNELS)
def test_each_kernel_peer_computes_the_same_thing(name: str) -> None:
    """Comparing speeds means nothing unless the results agree."""
    kernel = elementwise.KERNELS[name]
    inputs = kernel.make(3, 256)
    ours, theirs = kernel.ours(*inputs), kernel.torch(*inputs)
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
    case = next(elementwise.KERNELS[name].cases())
    inputs = elementwise.KERNELS[name].make(2, width)
    assert case.bytes_moved(inputs) == 4 * elements
    half = tuple(t.half() for t in inputs)
    assert case.bytes_moved(half) == 2 * elements


CPU = torch.device("cpu")


def results(case: Case) -> dict[str, torch.Tensor]:
    """What each peer makes of the case's inputs on the CPU, where it can run there."""
    inputs, made = case.inputs(CPU, torch.float32), {}
    for peer in case.peers:
        try:
            made[peer.name] = kernels.flat(peer.call(*peer.prepare(*inputs)))
        except (RuntimeError, NotImplementedError):  # a backend of SDPA that needs a GPU
            assert "SDPA" in peer.name or "varlen_attn" in peer.name
    return made


def test_dense_attention_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "DENSE_TOKENS", 40)
    monkeypatch.setattr(attention, "DENSE_WIDTH", 64)
    call = ops.flash_attention
    causal = attention.dense_case("flash_attention", call, 32, 20, True)
    full = attention.dense_case("flash_attention", call, 32, 20, False)
    # Two sequences of two heads: 20 x 20 scores each, 32 multiplications and additions a score,
    # and as many for the values.  The causal half is counted as the papers count it.
    assert full.flops == 2 * 2 * 20 * 20 * (2 * 32 + 2 * 32)
    assert causal.flops == full.flops / 2
    inputs = causal.inputs(CPU, torch.float32)
    assert [tuple(t.shape) for t in inputs] == [(2, 2, 20, 32)] * 3
    assert causal.bytes_moved(inputs) == 4 * 4 * (2 * 2 * 20 * 32)
    for case, is_causal in ((causal, True), (full, False)):
        expected = F.scaled_dot_product_attention(*inputs, is_causal=is_causal)
        torch.testing.assert_close(results(case)["litellama"], expected.flatten())


def test_packed_attention_by_hand() -> None:
    lengths = [5, 33, 1]
    case = attention.packed_case(4, 2, 16, lengths, 16)
    assert case.flops == 4 * 4 * 16 * (5 * 5 + 33 * 33 + 1) // 2
    q, k, v = case.inputs(CPU, torch.float32)
    assert (q.shape, k.shape, v.shape) == ((39, 4, 16), (39, 2, 16), (39, 2, 16))
    assert case.bytes_moved((q, k, v)) == 4 * (2 * 39 * 4 * 16 + 2 * 39 * 2 * 16)

    _, equal, pad, varlen = case.peers
    assert not equal.same_work
    assert not pad.same_work
    expected = torch.cat(
        [
            F.scaled_dot_product_attention(
                *(x[a : a + n].transpose(0, 1)[None] for x in (q, k, v)),
                is_causal=True,
                enable_gqa=True,
            )[0].transpose(0, 1)
            for a, n in ((0, 5), (5, 33), (38, 1))
        ]
    )
    made = results(case)
    torch.testing.assert_close(made["litellama"], expected.flatten())
    # The padded batch holds the same answers among its padding.
    padded = made[pad.name].view(3, 4, 33, 16).transpose(1, 2)
    real = torch.cat([padded[s, :n] for s, n in enumerate(lengths)])
    torch.testing.assert_close(real, expected)
    # Equal sequences: (25 + 1089 + 1) / 39 = 29 keys a query, which rounds up to one tile of 128.
    assert equal.prepare(q, k, v)[0].shape == (1, 4, 128, 16)
    assert equal.flops == 4 * 4 * 16 * 128 * 128 // 2
    heads = varlen.prepare(q, k, v)
    assert heads[1].shape == heads[2].shape == (39, 4, 16)
    assert heads[3].tolist() == [0, 5, 38, 39]
    assert heads[4] == 33


def test_mixed_lengths_are_log_uniform_and_have_both_ends() -> None:
    lengths = attention.mixed_lengths(2000, 8192)
    assert (min(lengths), max(lengths)) == (1, 8192)
    assert lengths == attention.mixed_lengths(2000, 8192)
    for low, high in ((1, 10), (10, 100), (100, 1000)):  # a decade holds 1 / log10(8192) of all
        share = sum(low <= n < high for n in lengths) / len(lengths)
        assert share == pytest.approx(1 / 3.913, abs=0.04)


@pytest.mark.parametrize("sizes", [(3, 4, 2, 37, 16), (1, 6, 2, 64, 32), (2, 2, 2, 5, 8)])
def test_decoding_by_hand(sizes: tuple[int, ...]) -> None:
    sequences, _, kv_heads, keys, head_dim = sizes
    case = attention.decode_case(*sizes)
    q, k, v = case.inputs(CPU, torch.float32)
    assert case.flops is None
    assert case.bytes_moved((q, k, v)) == 4 * 2 * sequences * kv_heads * keys * head_dim
    expected = F.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True).flatten()
    made = results(case)
    assert {"litellama", "SDPA flash", "SDPA flash, heads as rows"} <= set(made)
    for result in made.values():
        torch.testing.assert_close(result, expected)
    for peer in case.peers:  # each layout that a backend is given holds the same attention
        if "SDPA" in peer.name:
            inputs = peer.prepare(q, k, v)
            result = F.scaled_dot_product_attention(*inputs, enable_gqa=True)
            torch.testing.assert_close(result.flatten(), expected)


def test_paged_keys_are_where_the_table_says() -> None:
    lengths = [17, 0, 40]
    k, v = torch.randn(57, 2, 8), torch.randn(57, 2, 8)
    k_cache, v_cache, batch = attention.paged(k, v, lengths, [1, 0, 3], 16)
    assert k_cache.shape == (2 + 3, 16, 2, 8)
    assert batch.query_starts.tolist() == [0, 1, 1, 4]
    assert batch.seq_lens.tolist() == lengths
    for s, (start, length) in enumerate(((0, 17), (17, 0), (17, 40))):
        slots = batch.key_slots[s, :length]
        assert torch.equal(k_cache.flatten(0, 1)[slots], k[start : start + length])
        assert torch.equal(v_cache.flatten(0, 1)[slots], v[start : start + length])
    assert torch.equal(batch.slots, torch.cat([batch.key_slots[0, 16:17], batch.key_slots[2, 37:]]))


def test_a_linear_layer_by_hand() -> None:
    case = matvec.matvec_case("small", 40, 24, (), ops.matvec, F.linear)
    x, weight = case.inputs(CPU, torch.float32)
    assert (x.shape, weight.shape) == ((1, 40), (24, 40))
    assert case.bytes_moved((x, weight)) == 4 * 24 * 40
    made = results(case)
    torch.testing.assert_close(made["litellama"], (x @ weight.T).flatten())
    torch.testing.assert_close(made["cuBLAS"], made["litellama"])


def test_a_linear_layer_with_its_neighbours() -> None:
    cases = list(matvec.fused_cases({"qkv": (40, 24), "gate_up": (40, 56), "down": (28, 40)}))
    assert [case.label for case in cases] == [
        "norm + qkv 24×40", "norm + gate_up + swiglu 56×40", "down + residual 40×28"
    ]  # fmt: skip
    for case, outputs in zip(cases, (24, 28, 40), strict=True):
        inputs = case.inputs(CPU, torch.float32)
        assert case.bytes_moved(inputs) == 4 * inputs[1].numel()
        made = results(case)
        assert made["litellama"].shape == (outputs,)
        torch.testing.assert_close(made["cuBLAS"], made["litellama"])


def test_the_layers_are_those_of_the_models() -> None:
    """From the models' sizes: heads, key/value heads, head_dim, hidden, intermediate."""
    sizes = {"Llama-3.2-1B": (32, 8, 64, 2048, 8192), "Llama-3.2-3B": (24, 8, 128, 3072, 8192)}
    for model, (heads, kv_heads, head_dim, hidden, inner) in sizes.items():
        assert matvec.LAYERS[model] == {
            "qkv": (hidden, (heads + 2 * kv_heads) * head_dim),
            "o": (heads * head_dim, hidden),
            "gate_up": (hidden, 2 * inner),
            "down": (inner, hidden),
            "lm_head": (hidden, 128256),
        }


def test_a_replay_is_large_or_has_many_calls() -> None:
    assert timing.calls_per_replay(1 << 31) == 1
    assert timing.calls_per_replay(1 << 28) == 4
    assert timing.calls_per_replay((1 << 28) + 1) == 4
    assert timing.calls_per_replay(1) == timing.calls_per_replay(0) == timing.MOST_CALLS


def test_each_call_of_a_replay_has_memory_of_its_own() -> None:
    x, batch = torch.ones(3), object()
    sets = kernels.copies((x, batch), 3)
    assert len({s[0].data_ptr() for s in sets}) == 3
    assert all(s[1] is batch for s in sets)


def test_a_wrong_result_has_no_speed() -> None:
    right = torch.randn(1000)
    kernels.check_same(right + 1e-4 * torch.randn(1000), right, 1e-3)
    for wrong in (right + 0.1, right * float("nan"), right[:-1]):
        with pytest.raises(RequestError, match=r"differs|elements"):
            kernels.check_same(wrong, right, 1e-3)


def test_kernels_are_chosen_by_name_and_label() -> None:
    assert {case.kernel for case in kernels.choose(["mul", "matvec"])} == {"mul", "matvec"}
    chosen = kernels.choose(["flash_attention"], "T4096")
    assert [case.label for case in chosen] == ["hd64 T4096", "hd128 T4096", "hd128 T4096 full"]
    assert len(kernels.choose(None)) == len(kernels.all_cases())
    with pytest.raises(RequestError, match=r"no kernel 'nope'.*choose from .*mul, softmax"):
        kernels.choose(["nope"])
    with pytest.raises(RequestError, match=r"no case has 'T5'.*hd64 T1024"):
        kernels.choose(["flash_attention"], "T5")


def test_the_cache_write_by_hand() -> None:
    case = serving_kernels.write_case(70)
    k, v = case.inputs(CPU, torch.float32)
    assert case.bytes_moved((k, v)) == 4 * 4 * 70 * 8 * 128
    ours, theirs = (peer.call(*peer.prepare(k, v)) for peer in case.peers)
    assert torch.equal(ours, theirs)
    *_, slots = case.peers[0].prepare(k, v)
    assert torch.equal(ours[0].flatten(0, 1)[slots], k)


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_the_sampler_and_its_peer_draw_from_the_nucleus(top_p: float) -> None:
    case = serving_kernels.sample_case(40, 30, top_p)
    (logits,) = case.inputs(CPU, torch.float32)
    assert case.bytes_moved((logits,)) == 4 * 40 * 30
    ordered, order = torch.softmax(logits, -1).sort(-1, descending=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    ours, theirs = (peer.call(*peer.prepare(logits)).flatten() for peer in case.peers)
    for drawn in (ours, theirs):
        places = (order == drawn[:, None]).int().argmax(-1)
        assert kept.gather(-1, places[:, None]).all()
    assert not torch.equal(ours, theirs), "they draw other numbers"


def test_every_case_has_a_name_of_its_own() -> None:
    cases = kernels.all_cases()
    assert len({(case.kernel, case.label) for case in cases}) == len(cases)
    for case in cases:
        assert case.peers[0].name == "litellama"
        assert len({peer.name for peer in case.peers}) == len(case.peers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtypes": ("int3",)}, "unknown dtype 'int3'"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"names": ["nope"]}, "no kernel 'nope'"),
    ],
)
def test_impossible_runs_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        kernels.run(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_are_not_timed_on_a_cpu() -> None:
    with pytest.raises(RequestError, match="timed on a GPU"):
        kernels.run(["mul"])


class FakeTiming:
    """In place of a GPU: a replay takes one millisecond for each call."""

    @staticmethod
    def capture(calls: list) -> int:
        for call in calls:
            call()
        return len(calls)

    @staticmethod
    def time_in_turns(graphs: dict, repeats: int, dirty: bool) -> dict:
        return {name: [1e-3 * n] * repeats for name, n in graphs.items()}

    @staticmethod
    def calls_per_replay(bytes_moved: int) -> int:
        return 4


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> kernels.Bench:
    monkeypatch.setattr(kernels, "timing", FakeTiming)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    return kernels.Bench(CPU, 3, lambda message: None, copy=1e6, matmul=1e9)


def small_case(*peers: Peer, flops: int | None = None) -> Case:
    def make(device: torch.device) -> tuple[torch.Tensor, ...]:
        return normal(device, (10, 5), (10, 5))

    ours = Peer("litellama", torch.mul)
    return Case(
        "group", "mul", "10×5", make, lambda t: 3 * t[0].numel(), (ours, *peers), flops=flops
    )


def test_a_row_says_the_rate_and_the_fraction(bench: kernels.Bench) -> None:
    rows = bench.measure(small_case(Peer("torch", torch.mul, note="as it comes")), "float32")
    assert [row["peer"] for row in rows] == ["litellama", "torch"]
    assert "note" not in rows[0]
    assert rows[1]["note"] == "as it comes"
    for row in rows:
        assert row["bytes"] == 600
        assert row["median_us"] == 1000  # of one call, not of the replay's four
        assert row["gb_per_s"] == round(600 / 1e-3 / 1e9, 1)
        assert row["fraction_of_copy"] == 0.6
        assert row["repetitions_us"] == [1000] * 3
        assert (row["case"], row["shape"]) == ("10×5", [[10, 5], [10, 5]])
    assert not bench.failed


def test_where_arithmetic_is_the_limit_a_row_says_flops(bench: kernels.Bench) -> None:
    padded = Peer("padded", lambda a, b: a, same_work=False)
    other = Peer("other", lambda a, b: a, same_work=False, flops=250_000)
    ours, pad, less = bench.measure(small_case(padded, other, flops=500_000), "float32")
    assert ours["fraction_of_matmul"] == pad["fraction_of_matmul"] == 0.5
    assert less["fraction_of_matmul"] == 0.25  # a rate of its own work
    assert "gb_per_s" not in ours


def test_what_fails_is_named_and_the_others_go_on(bench: kernels.Bench) -> None:
    def crash(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel\nof that shape")

    others = Peer("broken", crash), Peer("wrong", torch.add), Peer("right", lambda a, b: b * a)
    rows = bench.measure(small_case(*others), "float32")
    assert [row["peer"] for row in rows] == ["litellama", "right"]
    broken, wrong = bench.failed
    assert broken == {
        "kernel": "mul", "case": "10×5", "dtype": "float32", "peer": "broken",
        "error": "RuntimeError: no kernel",
    }  # fmt: skip
    assert "differs from the first result" in wrong["error"]


def test_a_whole_run_is_saved_case_by_case(
    bench: kernels.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "the_gpu", lambda: CPU)
    monkeypatch.setattr(machine, "copy_bandwidth", lambda device: 1e9)
    monkeypatch.setattr(machine, "matmul_rate", lambda device: 1e12)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    seen, saved = [], []
    record = kernels.run(
        ["mul"], "6×4096", ("float32", "float16"), 2, seen.append,
        save=lambda so_far: saved.append(len(so_far["results"])),
    )  # fmt: skip
    assert not record["failed"]
    cases = [case.label for case in kernels.choose(["mul"], "6×4096")]
    rows = [(row["dtype"], row["case"], row["peer"]) for row in record["results"]]
    names = ["litellama", "torch eager", "torch.compile"]
    kinds = ("float32", "float16")
    assert rows == [(kind, case, name) for kind in kinds for case in cases for name in names]
    assert saved == [3 * (i + 1) for i in range(2 * len(cases))]
    assert record["copy_bytes_per_s"] == 1e9
    assert record["absent"] == ([] if elementwise.has_liger() else ["Liger-Kernel"])
    assert "mul 16×4096 float16: torch.compile" in seen
    assert report.lines(record)[0].case == "16×4096"
    json.dumps(record)


def test_liger_gets_the_layout_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an operation of the same signature in Liger-Kernel's place: it rotates in place."""

    def rotate(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple:
        assert q.shape == (1, 4, 3, 128)
        assert k.shape == (1, 1, 3, 128)
        assert cos.shape == sin.shape == (1, 3, 128)
        for x in (q, k):
            first, second = x.chunk(2, dim=-1)
            x.copy_(x * cos + torch.cat([-second, first], dim=-1) * sin)
        return q, k

    monkeypatch.setattr(elementwise, "_liger", lambda name: rotate)
    rope = elementwise.KERNELS["rope"]
    inputs = rope.make(3, 512)
    before = [x.clone() for x in inputs]
    made = rope.liger(*rope.liger_inputs(*inputs))
    assert all(map(torch.equal, inputs, before)), "the other peers get the inputs as they were"
    right = kernels.flat(rope.ours(*inputs))
    kernels.check_same(kernels.flat(made), right, 1e-5)


@pytest.mark.gpu
def test_kernels_are_timed_on_a_gpu() -> None:
    saved = []
    record = kernels.run(["mul"], only="6×4096", repeats=3, save=lambda r: saved.append(dict(r)))
    assert not record["failed"]
    names = ["litellama", "torch eager", "torch.compile"]
    assert [row["peer"] for row in record["results"]] == names * 2  # 16 and 256 rows
    assert all(0.001 < row["fraction_of_copy"] < 1.2 for row in record["results"])
    assert len(saved) == 2
    assert 1e13 < record["matmul_flop_per_s"] < 1e16


def load(path: str) -> ModuleType:
    """A script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without(record: dict, kernel: str, peer: str) -> dict:
    rows = [row for row in record["results"] if (row["kernel"], row["peer"]) != (kernel, peer)]
    return record | {"results": rows}


def test_a_line_is_ours_the_limit_and_the_best_peer() -> None:
    line = next(line for line in report.lines(kernel_record()) if "1B gate_up" in line.case)
    assert line.unit == "GB/s"
    assert line.rates == {"litellama": 2400, "cuBLAS": 2100, "torch.compile": pytest.approx(1800)}
    assert line.fraction == 0.8
    assert line.best_peer == ("cuBLAS", 2100)
    assert line.times_faster == pytest.approx(2400 / 2100)
    columns = report.headings([line])
    assert columns == ["litellama", "cuBLAS", "torch.compile", "of limit", "×"]
    assert report.cells(line, columns) == ["2400", "2100", "1800", "80%", "1.14"]


def test_a_line_without_us_or_without_peers_has_gaps() -> None:
    lines = report.lines(without(kernel_record(), "matvec", "litellama"))
    line = next(line for line in lines if "1B gate_up" in line.case)
    assert line.fraction is line.times_faster is None
    columns = report.headings([line])
    assert report.cells(line, columns) == ["", "2100", "1800", "", ""]
    alone = report.Line("g", "k", "c", "float16", "GB/s", 1, {"litellama": 5.0}, 0.5)
    assert alone.best_peer is alone.times_faster is None
    assert report.cells(alone, report.headings([alone])) == ["5", "50%", ""]


def test_an_updated_record_says_what_is_of_which_run() -> None:
    record = kernel_record(failed=[{"kernel": "mul", "case": "x", "dtype": "bfloat16"}])
    again = kernel_record(date="tomorrow", command="litellama bench kernels mul")
    new, rest = (
        again["results"][-1] | {"case": "new"},
        [r for r in again["results"] if r["kernel"] == "mul"],
    )
    again["results"] = [*rest, new]
    updated = report.updated(record, again)
    assert [row for row in updated["results"] if "date" not in row] == [
        row for row in record["results"] if row["kernel"] != "mul"
    ]
    assert updated["results"][-1] == new | {"date": "tomorrow"}
    assert updated["failed"] == record["failed"], "a case that was not measured again"
    summary = load("benchmarks/summary.py")
    said = summary.updates(updated)
    assert "on tomorrow with `litellama bench kernels mul`: mul 16×4096, " in said
    assert said.endswith(f"{new['kernel']} new.")
    assert summary.updates(record) == ""


def test_the_summary_leaves_small_memory_bound_cases_out() -> None:
    record = kernel_record()
    for row in record["results"]:
        if row["case"] == "16×4096":
            row["bytes"] = 393216
    shown = report.headline(report.lines(record))
    assert "16×4096" not in {line.case for line in shown}
    assert {line.kernel for line in shown} == {line.kernel for line in report.lines(record)}


def test_the_readme_table_has_every_kernel() -> None:
    record = kernel_record()
    table = load("benchmarks/summary.py").kernel_table(record)
    for line in report.lines(record):
        assert f"| `{line.kernel}` {line.case} |" in table
    assert "a copy: 3000 GB/s" in table
    assert "a matrix product of 8192³: 700 TFLOP/s" in table
    widths = {row.count("|") for row in table.split("\n\n")[2].splitlines()}
    assert len(widths) == 1, "rows of one table have as many columns"


def test_the_chart_shows_every_kernel_and_says_it_in_words() -> None:
    record = without(kernel_record(), "matvec", "litellama")
    plot = load("images/plot_benchmarks.py")
    root = ElementTree.fromstring(plot.kernels_chart(record))
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "hd64 T4096" in " ".join(words)
    assert "560 TFLOP/s, 80%" in words
    said = root.get("aria-label")
    assert "flash_attention hd64 T4096 560 TFLOP/s, 80%, SDPA flash 490" in said
    assert "lm_head 128256×2048 not measured, cuBLAS 2100" in said
    bars = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "lit"]
    measured = [line for line in report.lines(record) if line.fraction]
    assert len(bars) == 1 + len(measured)  # one in the legend
    assert float(bars[1].get("width")) == pytest.approx(0.8 * plot.SCALE)


def engine_record(**changes: object) -> dict:
    """A record of the engine on a GPU, with invented figures."""
    peer = {"first_token_ms": 5.0, "ms_per_token": 2.0, "decode_tokens_per_s": 1234.5}
    peer |= {"fraction_of_limit": 0.8, "peak_memory_bytes": 3.2e9}
    slow = peer | {"fraction_of_limit": 0.3, "decode_tokens_per_s": 400.0}
    count = {"same": 1, "tie": 2, "different": 3}
    return {
        "kind": "generate", "model": "random:llama-3.2-1b", "dtype": "bfloat16", "gpu": "Some GPU",
        "work": {"batch": 12, "prompt_tokens": 25, "new_tokens": 1900, "repeats": 1},
        "peers": {"litellama": peer, "transformers": slow},
        "times_faster_litellama": {"transformers": {"decode": 3.08}},
        "tokens": {"transformers": count},
    } | changes  # fmt: skip


QUEUE = {
    "kind": "queue", "tokens_per_s": 16000.0, "fraction_of_limit": 0.61, "peak_memory_bytes": 70e9,
    "work": {"requests": 256, "shortest": 100, "longest": 1024, "max_num_seqs": 200},
    "repetitions": [{"steps": 1100}], "peers": {},
}  # fmt: skip
PREFIX = {
    "kind": "prefix", "work": {"requests": 64, "prefix_tokens": 2000, "own_tokens": 32},
    "without_alone_s": 0.02, "without_s": 1.0, "together_s": 0.3, "cached_alone_s": 0.005,
    "cached_s": 0.125, "times_faster": {"together": 3.33, "cached": 8.0},
}  # fmt: skip


def test_the_engine_in_the_readme() -> None:
    tables = load("benchmarks/summary.py").TABLES
    text = tables["generate"](engine_record())
    assert "**random:llama-3.2-1b in bfloat16**, batch 12, 25 prompt and 1900 new" in text
    assert "| litellama | 5 ms | 2.00 ms | 1,234.5 | 80% |  | 3.2 GB |" in text
    assert "| transformers | 5 ms | 2.00 ms | 400.0 | 30% | 3.08× as fast | 3.2 GB |" in text
    assert "1 the same, 2 parted at a tie, 3 different" in text
    text = tables["queue"](engine_record(**QUEUE))
    assert "**16,000 output tokens/s**, 61% of the limit, in 1100 steps, 70.0 GB" in text
    peers = {"nano-vllm": {"tokens_per_s": 8000.0, "fraction_of_limit": 0.3}}
    text = tables["queue"](engine_record(**(QUEUE | {"peers": peers})))
    assert text.endswith("70.0 GB at the peak. nano-vllm on the same requests: 8,000.\n")
    text = tables["prefix"](engine_record(**PREFIX))
    assert "| computed by each | 20.0 ms | 1000.0 ms |  |" in text
    assert "| in the cache | 5.0 ms | 125.0 ms | 8.0× |" in text


def test_the_headlines_of_the_readme() -> None:
    headline = load("benchmarks/summary.py").headline
    place = "one Some GPU"
    assert headline(engine_record()) == (
        f"| llama-3.2-1b bf16, 12 × (25 + 1900) | {place} | 1,234 tokens/s | 80% "
        "| 3.08× transformers |\n"
    )
    assert headline(engine_record(picture_tokens=576)).startswith(
        "| llama-3.2-1b bf16, 12 × (601 + 1900) |"
    )
    assert "| 16,000 tokens/s | 61% |  |" in headline(engine_record(**QUEUE))
    peers = {"nano-vllm": {"tokens_per_s": 8000.0, "fraction_of_limit": 0.3}}
    beside = engine_record(**(QUEUE | {"peers": peers}))
    assert "| 16,000 tokens/s | 61% | 2.00× nano-vllm |" in headline(beside)
    row = headline(engine_record(**PREFIX))
    assert "64 sharing 2000 tokens: first token" in row
    assert "| 125 ms |  | 8.0× without reuse |" in row


def test_a_stale_readme_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = load("benchmarks/summary.py")
    for name in ("README", "FULL"):
        copy = tmp_path / f"{name}.md"
        copy.write_text(getattr(summary, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(summary, name, copy)
    monkeypatch.setattr(summary, "ROOT", tmp_path)
    monkeypatch.setattr(summary.sys, "argv", ["summary.py", "--check"])
    assert summary.main() == 0
    for copy in (summary.README, summary.FULL):
        right = copy.read_text(encoding="utf-8")
        copy.write_text(right.replace("tokens/s |", "tokens |"), encoding="utf-8")
        assert summary.main() == 1
        monkeypatch.setattr(summary.sys, "argv", ["summary.py"])
        assert summary.main() == 0
        assert copy.read_text(encoding="utf-8") == right
        monkeypatch.setattr(summary.sys, "argv", ["summary.py", "--check"])


def test_the_chart_of_the_engine() -> None:
    plot = load("images/plot_benchmarks.py")
    peers = {"nano-vllm": {"tokens_per_s": 8000.0, "fraction_of_limit": 0.3}}
    queue = engine_record(**(QUEUE | {"peers": peers}))
    root = ElementTree.fromstring(plot.engine_chart([engine_record(), queue]))
    said = root.get("aria-label")
    assert "llama-3.2-1b bf16, 12 × (25 + 1900): litellama 1,234 (80%), transformers 400" in said
    assert (
        "llama-3.2-1b bf16, 256 of 100–1024: litellama 16,000 (61%), nano-vllm 8,000 (30%)" in said
    )
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "1,234 tokens/s, 80%" in words
    assert "400 tokens/s transformers" in words


def test_recorded_files_say_where_they_come_from() -> None:
    folder = ROOT / "benchmarks"
    records = sorted(folder.glob("*.json"))
    assert records, f"no records in {folder}"
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("command", "date", "cpu", "versions"):
            assert record[key], f"{path.name} does not say its {key}"
        assert "/" not in record["command"], f"{path.name}: a path of one machine in the command"
