"""The front door on a small random model: batches, streams, seeds, stops, limits and errors."""

import gc
import random
import threading

import numpy as np
import pytest
import torch

from litellama import LLM, SamplingParams
from litellama.arguments import check_token_ids
from litellama.errors import EngineError, RequestError
from tests.checkpoint_maker import make_llama

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny_llama, device) -> LLM:
    return LLM(tiny_llama, device=device, dtype="float32")


def prompts(seed: int, count: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(260) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def is_idle(llm: LLM) -> bool:
    """No request waits or runs, and every block is free."""
    scheduler = llm.engine.scheduler
    free = scheduler.manager.num_free == scheduler.manager.num_blocks
    return free and not scheduler.running and not scheduler.waiting and not llm.engine._live


@pytest.mark.parametrize("seed", range(6))
def test_tokens_do_not_depend_on_batch_block_size_chunks_or_preemption(tiny_llama, llm, seed):
    """Each request alone in a large pool, against all together in one far too small for them."""
    rng = random.Random(seed)
    many = prompts(seed, 9)
    params = [
        SamplingParams(
            temperature=rng.choice([0.0, 0.8]),
            top_p=rng.choice([1.0, 0.9]),
            repetition_penalty=rng.choice([1.0, 1.2]),
            max_tokens=rng.randint(1, 40),
            seed=rng.randrange(1000),
        )
        for _ in many
    ]
    alone = [llm.generate(p, s)[0].token_ids for p, s in zip(many, params, strict=True)]
    tight = LLM(
        tiny_llama,
        device=llm.device.type,
        dtype="float32",
        max_num_seqs=rng.choice([2, 4, 9]),
        block_size=rng.choice([1, 2, 8, 16]),
        kv_cache_tokens=112,
        max_seq_len=105,
    )
    tight.engine.scheduler.max_step_tokens = rng.choice([9, 33, 2048])
    together = tight.generate(many, params)
    assert [o.token_ids for o in together] == alone
    assert is_idle(tight)
    if tight.engine.scheduler.max_num_seqs == 9:
        assert tight.engine.scheduler.num_preemptions > 0


def test_stream_pieces_join_to_the_text_of_generate(llm):
    params = SamplingParams(seed=11, max_tokens=40, temperature=0.9)
    pieces = list(llm.stream("hello", params))
    assert "".join(pieces) == llm.generate("hello", params)[0].text
    assert len(pieces) > 3


def test_a_stream_returns_what_generate_returns(llm):
    def collect():
        out = yield from llm.stream("hello", GREEDY)
        assert out == llm.generate("hello", GREEDY)[0]

    list(collect())


def test_a_submitted_request_is_followed_to_the_same_end(llm):
    """And while it goes its blocks can be looked at."""
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=12)
    request = llm.submit("hello", params)
    pieces = llm.follow(request)
    text = next(pieces)
    assert request.blocks
    while True:
        try:
            text += next(pieces)
        except StopIteration as end:
            output = end.value
            break
    assert output == llm.generate("hello", params)[0]
    assert text == output.text
    assert not request.blocks


def test_logits_of_the_last_tokens_only(llm):
    ids = llm.tokenizer.encode("hello hello hello")
    whole = llm.logits(ids)
    for last in (1, 3):
        torch.testing.assert_close(llm.logits(ids, last=last), whole[-last:])


def test_streams_interleave_and_generate_runs_between(llm):
    params = [SamplingParams(seed=i, max_tokens=20 + i) for i in range(3)]
    expected = [llm.generate("hello", p)[0].text for p in params]
    streams = [llm.stream("hello", p) for p in params]
    texts = ["", "", ""]
    for _ in range(5):
        for i, stream in enumerate(streams):
            texts[i] += next(stream, "")
    assert llm.generate([5, 6, 7], GREEDY)[0].finish_reason == "length"
    assert [t + "".join(s) for t, s in zip(texts, streams, strict=True)] == expected
    assert is_idle(llm)


def test_streams_from_several_threads(llm):
    params = [SamplingParams(seed=i, max_tokens=30) for i in range(6)]
    expected = [llm.generate("hello hello", p)[0].text for p in params]
    texts = [""] * 6

    def run(i: int) -> None:
        texts[i] = "".join(llm.stream("hello hello", params[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == expected
    assert is_idle(llm)


def test_a_stream_that_is_closed_or_never_started_leaves_nothing_behind(llm):
    stream = llm.stream("hello", GREEDY)
    next(stream)
    assert not is_idle(llm)
    stream.close()
    llm.stream("hello", GREEDY)
    assert is_idle(llm)


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_an_engine_whose_step_failed_says_so_and_is_still_usable(llm, monkeypatch, way):
    cause = MemoryError("injected")

    def fail(step):
        raise cause

    call = {
        "generate": lambda: llm.generate([[1, 2], [3]], GREEDY),
        "stream": lambda: list(llm.stream([1, 2], GREEDY)),
    }
    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "submit", fail)
        with pytest.raises(EngineError, match="injected") as caught:
            call[way]()
    assert caught.value.__cause__ is cause
    assert is_idle(llm)
    assert len(llm.generate([1, 2], GREEDY)[0].token_ids) == 12


def test_ctrl_c_leaves_nothing_behind(llm, monkeypatch):
    def interrupt(step):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "submit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[1, 2], [3]], GREEDY)
    assert is_idle(llm)
    assert len(llm.generate([1, 2], GREEDY)[0].token_ids) == 12


def test_what_cannot_all_be_submitted_leaves_nothing_behind(llm, monkeypatch):
    submit = llm.engine.submit
    calls = iter([submit, submit])  # and then Ctrl-C

    def interrupt(*arguments):
        if (one := next(calls, None)) is None:
            raise KeyboardInterrupt
        return one(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "submit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[1, 2], [3], [4]], GREEDY)
    assert is_idle(llm)


@pytest.mark.timeout(120)
def test_streams_that_the_garbage_collector_closes_stop_nobody(llm):
    def forget() -> None:
        stream = llm.stream([1, 2], GREEDY)
        next(stream)
        cycle: list = [stream]
        cycle.append(cycle)

    submit = llm.engine.runner.submit

    def collect(step):
        gc.collect()
        return submit(step)

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm.engine.runner, "submit", collect)
        assert len(llm.generate([1, 2], GREEDY)[0].token_ids) == 12
    assert is_idle(llm)


def test_a_prompt_seen_before_is_taken_from_the_cache(llm):
    prompt = prompts(5, 1)[0] * 2
    first, again = (llm.generate(prompt, GREEDY)[0] for _ in range(2))
    assert first == again
    assert first.num_cached_tokens < 16 <= again.num_cached_tokens < len(prompt)


def test_tokens_in_an_array_or_a_tensor_are_a_prompt(llm):
    expected = llm.generate([5, 6, 7], GREEDY)
    for prompt in (np.array([5, 6, 7]), torch.tensor([5, 6, 7]), list(np.array([5, 6, 7]))):
        assert llm.generate(prompt, GREEDY) == expected
        assert "".join(llm.stream(prompt, GREEDY)) == expected[0].text
    torch.testing.assert_close(llm.logits(np.array([5, 6])), llm.logits([5, 6]))


def test_finish_reasons(llm):
    length = llm.generate("hello", SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))[0]
    assert (length.finish_reason, len(length.token_ids)) == ("length", 3)
    text = llm.generate("hello", SamplingParams(seed=0, max_tokens=40, ignore_eos=True))[0].text
    stop = text[4:6]
    stopped = llm.generate(
        "hello", SamplingParams(seed=0, max_tokens=40, stop=stop, ignore_eos=True)
    )[0]
    assert (stopped.finish_reason, stopped.text) == ("stop", text[: text.index(stop)])


def test_the_end_of_text_token_stops_and_is_kept_out_of_the_text(tmp_path):
    """A model that likes one token only: made the end of text, it ends every answer at once."""
    folder = make_llama(tmp_path)
    llm = LLM(folder, device="cpu")
    end = llm.config.eos_token_ids[0]
    llm.model.embed_tokens[end] = 50 * llm.model.embed_tokens[end]
    likely = [i for i in range(260) if int(llm.logits([i])[-1].argmax()) == end]
    out = llm.generate(likely[:1], SamplingParams(temperature=0, max_tokens=5))[0]
    assert (out.token_ids, out.text, out.finish_reason) == ([end], "", "stop")
    ignored = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    assert len(llm.generate(likely[:1], ignored)[0].token_ids) == 5


def test_generation_ends_at_the_context(tiny_llama):
    llm = LLM(tiny_llama, device="cpu", max_seq_len=20)
    out = llm.generate([1] * 15, SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))[0]
    assert (len(out.token_ids), out.finish_reason) == (5, "length")
    full = llm.generate([1] * 20, SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))[0]
    assert (len(full.token_ids), full.finish_reason) == (1, "length")


def test_one_prompt_or_many_strings_or_ids(llm):
    single = llm.generate("hello", GREEDY)
    ids = llm.tokenizer.encode("hello")
    assert single == llm.generate(ids, GREEDY) == llm.generate(["hello"], GREEDY)
    assert single == llm.generate(torch.tensor(ids), GREEDY)
    assert llm.generate([ids, "hello"], [GREEDY, GREEDY]) == single * 2
    assert llm.generate([], GREEDY) == []
    assert single[0].prompt_token_ids == ids


def test_without_a_seed_texts_differ_and_torch_manual_seed_repeats_them(llm):
    params = SamplingParams(max_tokens=20)
    first, second = (llm.generate("hello", params)[0].token_ids for _ in range(2))
    assert first != second
    torch.manual_seed(5)
    first = llm.generate("hello", params)
    torch.manual_seed(5)
    assert llm.generate("hello", params) == first


def test_chat_follows_the_template(llm):
    messages = [
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "hello"},
    ]
    ids = llm.chat_prompt(messages)
    assert llm.tokenizer.decode(ids) == "<|system|>brief<|end|><|user|>hello<|end|><|assistant|>"
    assert llm.chat(messages, GREEDY) == llm.generate(ids, GREEDY)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda llm: llm.generate(""), "the prompt is empty"),
        (lambda llm: llm.generate([[]]), "the prompt is empty"),
        (lambda llm: llm.generate([0] * 513), "513 tokens, more than the context of 512"),
        (lambda llm: llm.generate([1, 266]), "token id 266 at position 1.* 0 to 265"),
        (lambda llm: llm.generate([-1]), "token id -1"),
        (lambda llm: llm.generate([[1, 2.5]]), "token id 2.5"),
        (lambda llm: llm.generate([[1], [2]], [GREEDY]), "2 prompts and 1 SamplingParams"),
        (lambda llm: llm.generate([[1], [2]], [GREEDY, 5]), "must be SamplingParams, got 5"),
        (lambda llm: llm.generate([1], {"seed": 0}), r"must be SamplingParams, got {'seed': 0}"),
        (lambda llm: llm.stream([1], {"seed": 0}), "must be SamplingParams"),
        (lambda llm: llm.submit([1], 0), "must be SamplingParams, got 0"),
        (lambda llm: llm.generate(None), "string or a list of token ids, got None"),
        (lambda llm: llm.generate(5), "got 5"),
        (lambda llm: llm.generate([1.5]), "token id 1.5 at position 0"),
        (lambda llm: llm.generate(["a", None]), "got None"),
        (lambda llm: llm.generate(b"hello"), "got b'hello'"),
        (lambda llm: llm.stream(b"hello"), "got b'hello'"),
        (lambda llm: llm.generate("\ud800"), "no text that can be written"),
        (lambda llm: llm.logits([1, 2], last=0), "last must be a positive integer, got 0"),
        (lambda llm: llm.logits([1, 2], last="a"), "last must be a positive integer, got 'a'"),
        (lambda llm: llm.stream(""), "the prompt is empty"),
        (lambda llm: llm.logits([300]), "token id 300"),
        (lambda llm: llm.chat([]), "conversation is empty"),
        (lambda llm: llm.chat([{"role": "user"}]), "each message must be"),
        (lambda llm: llm.chat([{"role": "user", "content": "a"}], images=[1]), "reads text only"),
    ],
)
def test_requests_that_cannot_be_served_are_refused_at_once(llm, call, message):
    with pytest.raises(RequestError, match=message):
        call(llm)
    assert is_idle(llm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"dtype": "int4"}, "unknown dtype 'int4'"),
        ({"block_size": 3}, "power of two, got 3"),
        ({"block_size": 0}, "block_size must be a positive integer, got 0"),
        ({"max_num_seqs": -2}, "max_num_seqs must be a positive integer, got -2"),
        ({"max_seq_len": 2.5}, "max_seq_len must be a positive integer, got 2.5"),
        ({"max_step_tokens": 0}, "max_step_tokens must be a positive integer, got 0"),
        ({"kv_cache_tokens": "all"}, "kv_cache_tokens must be a positive integer, got 'all'"),
        ({"kv_cache_tokens": 10**15}, "more than the .* GB of memory: lower kv_cache_tokens"),
        ({"max_num_seqs": 10**13}, "more than the .* GB of memory.* or max_num_seqs"),
        ({"trace_steps": -1}, "trace_steps must be a positive integer, got -1"),
        ({"prefix_caching": "no"}, "prefix_caching must be True or False, got 'no'"),
        ({"device": None}, "unknown device None"),
        ({"dtype": ["a"]}, r"unknown dtype \['a'\]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_llama, settings, message):
    with pytest.raises(RequestError, match=message):
        LLM(tiny_llama, **settings)


def test_a_pool_smaller_than_the_context_limits_the_context(tiny_llama):
    llm = LLM(tiny_llama, device="cpu", kv_cache_tokens=40, block_size=8)
    assert llm.max_seq_len == 40
    with pytest.raises(RequestError, match="more than the context of 40"):
        llm.generate([1] * 41)


def test_prompt_checks_name_the_first_bad_token():
    with pytest.raises(RequestError, match="token id True at position 2"):
        check_token_ids([1, 2, True], 10, 5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_on_a_cpu(tiny_llama, llm, dtype):
    half = LLM(tiny_llama, device="cpu", dtype=dtype)
    ids = prompts(0, 1)[0]
    exact = llm.logits(ids)
    error = (half.logits(ids) - exact).norm() / exact.norm()
    assert 0 < error < {"float16": 0.01, "bfloat16": 0.05}[dtype]
    assert len(half.generate(ids, GREEDY)[0].token_ids) == 12


@pytest.mark.gpu
def test_an_engine_on_another_gpu_than_the_current_one(tiny_llama):
    """Its graphs, events and kernels are all on its own; the current one stays as it was."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    params = [SamplingParams(temperature=t, seed=1, max_tokens=20, ignore_eos=True) for t in (0, 1)]
    prompts, engines = [[5, 6, 7], [8, 9]], {}
    for device in ("cuda:0", "cuda:1"):
        engines[device] = LLM(tiny_llama, device=device, dtype="float32", kv_cache_tokens=128)
    texts = {
        device: [out.token_ids for out in engine.generate(prompts, params)]
        for device, engine in engines.items()
    }
    assert texts["cuda:1"] == texts["cuda:0"]
    torch.testing.assert_close(*(e.logits([5, 6, 7]) for e in engines.values()))
    assert torch.cuda.current_device() == 0
