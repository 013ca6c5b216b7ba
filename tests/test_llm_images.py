"""Pictures through the front door: any batch, any chunks, a cache that knows them, and errors."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litellama import LLM, SamplingParams
from litellama.engine.runner import one_word
from litellama.engine.scheduler import Scheduled
from litellama.errors import ConfigError, RequestError
from tests.checkpoint_maker import make_llava

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
SIZE = 16  # tokens of a picture of the small model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llm(folder, device) -> LLM:
    return LLM(folder, device=device, dtype="float32", block_size=4)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def encoded(llm, monkeypatch) -> list[int]:
    """How many pictures each run of the vision tower took."""
    counts: list[int] = []
    encode = llm._runner.encode

    def counting(pixels: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(llm._runner, "encode", counting)
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_tokens_do_not_depend_on_batch_chunks_block_size_or_preemption(folder, llm, seed):
    """Each request alone in a large pool, against all together in one far too small for them."""
    rng = random.Random(seed)
    prompts, images, params = [], [], []
    for _ in range(9):
        shown = [picture(rng.randrange(4)) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
        words = [[rng.randrange(256) for _ in range(rng.randint(1, 9))] for _ in range(4)]
        mark, marks = llm.config.vision.image_token_id, len(shown)
        prompts.append([t for i, w in enumerate(words) for t in ([*w, mark] if i < marks else w)])
        images.append(shown)
        seeded = SamplingParams(temperature=0.8, max_tokens=rng.randint(1, 20), seed=seed)
        params.append(rng.choice([GREEDY, seeded]))
    alone = [llm.generate(p, s, i)[0] for p, s, i in zip(prompts, params, images, strict=True)]
    tight = LLM(
        folder,
        device=llm.device.type,
        dtype="float32",
        max_num_seqs=rng.choice([2, 9]),
        max_step_tokens=rng.choice([9, 23, 500]),
        block_size=rng.choice([1, 2, 8, 16]),
        kv_cache_tokens=144,
        prefix_caching=rng.random() < 0.7,
    )
    assert tight.generate(prompts, params, images) == alone


def test_a_preempted_request_sees_its_picture_again(folder, llm):
    long = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    prompts = [[i, llm.config.vision.image_token_id, i + 1] for i in range(4)]
    images = [[picture(80 + i)] for i in range(4)]
    alone = [llm.generate(p, long, i)[0] for p, i in zip(prompts, images, strict=True)]
    tight = LLM(
        folder,
        device=llm.device.type,
        dtype="float32",
        max_num_seqs=4,
        block_size=4,
        kv_cache_tokens=100,
        prefix_caching=False,
    )
    assert tight.generate(prompts, long, images) == alone
    assert tight.engine.scheduler.num_preemptions > 0


def test_a_picture_is_encoded_once(llm, encoded):
    mark = llm.config.vision.image_token_id
    llm.generate([1, mark, 2, mark], GREEDY, [picture(50), picture(51)])
    assert encoded == [2]
    llm.generate([[7, mark], [8, mark], [9]], GREEDY, [[picture(52)], [picture(52)], []])
    assert encoded == [2, 1], "the same picture in two prompts of a step"


def test_a_prompt_in_chunks_keeps_its_features_until_they_are_used(folder, device, monkeypatch):
    llm = LLM(folder, device=device, dtype="float32", max_step_tokens=5, max_num_seqs=2)
    counts, encode = [], llm._runner.encode
    monkeypatch.setattr(llm._runner, "encode", lambda p: counts.append(len(p)) or encode(p))
    ids, pictures = llm._encode([3, llm.config.vision.image_token_id, 4], [picture(0)])
    request = llm._submit(ids, pictures, GREEDY)
    held = []
    while request.finish_reason is None:
        llm.engine.step()
        held.append(pictures[0].features is not None)
    assert counts == [1]
    assert held[:4] == [True, True, True, False]
    assert not any(held[3:])


def test_a_shared_picture_is_a_prefix_hit_and_another_is_not(llm, encoded):
    mark = llm.config.vision.image_token_id
    ids = [11, 12, 13, 14, mark, 15, 16, 17]
    cold = llm.generate(ids, GREEDY, [picture(60)])[0]
    warm = llm.generate(ids, GREEDY, [picture(60)])[0]
    assert (cold.num_cached_tokens, warm.num_cached_tokens) == (0, 20)
    assert encoded == [1], "the tower is not run for what is in the cache"
    assert warm.token_ids == cold.token_ids
    other = llm.generate(ids, GREEDY, [picture(61)])[0]
    assert other.num_cached_tokens == 4, "the words before the picture"
    more = llm.generate([*ids, mark, 18], GREEDY, [picture(60), picture(62)])[0]
    assert more.num_cached_tokens == 20, "the first picture, when a second one follows"


def test_a_graph_of_words_is_not_asked_for_a_part_of_a_picture(llm):
    """A prompt in chunks can leave one token for its last step: a picture's, if it ends with one.
    The CUDA graphs look tokens up as words."""
    ids, pictures = llm._encode([5, llm.config.vision.image_token_id], [picture(0)])
    request = llm._submit(ids, pictures, GREEDY)
    stop = len(ids)
    assert not one_word(Scheduled(request, stop - 1, stop, samples=True))
    assert one_word(Scheduled(request, stop, stop + 1, samples=True))
    assert not one_word(Scheduled(request, stop - 2, stop, samples=True))
    words = llm._submit([5, 6], [], GREEDY)
    assert one_word(Scheduled(words, 1, 2, samples=True))
    for submitted in (request, words):
        llm.engine.abort(submitted)
        llm.engine.take(submitted)


@pytest.mark.parametrize("after", [[], [9]], ids=["nothing", "a_word"])
def test_the_last_token_of_a_picture_is_never_taken_for_a_word(llm, after):
    """A prompt that ends with a picture computes one picture token in a step of its own when the
    rest is cached: it must get its features there too."""
    mark = llm.config.vision.image_token_id
    ids = [21, 22, 23, 24, mark, *after]
    cold = llm.generate(ids, GREEDY, [picture(70)])[0]
    for _ in range(2):
        warm = llm.generate(ids, GREEDY, [picture(70)])[0]
        assert warm.num_cached_tokens == len(cold.prompt_token_ids) - 1
        assert warm.token_ids == cold.token_ids
    expected = llm.logits(ids, [picture(70)])[-1].argmax().item()
    assert warm.token_ids[0] == expected


def test_a_prompt_may_have_its_image_tokens_expanded_already(llm):
    mark = llm.config.vision.image_token_id
    short, long = [1, mark, 2], [1, *[mark] * SIZE, 2]
    out = llm.generate(short, GREEDY, [picture(1)])
    assert llm.generate(long, GREEDY, [picture(1)]) == out
    assert out[0].prompt_token_ids == long
    assert "".join(llm.stream(short, GREEDY, [picture(1)])) == out[0].text
    assert llm.generate("hello <image>", GREEDY, [picture(1)])[0].prompt_token_ids[-SIZE:] == (
        [mark] * SIZE
    )


def test_chat_puts_pictures_before_the_last_question_or_where_they_are_marked(llm):
    first = [{"role": "user", "content": "hello"}]
    marked = [{"role": "user", "content": "<image>\nhello"}]
    parts = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]},
    ]
    out = llm.chat(first, GREEDY, [picture(1)])
    assert llm.tokenizer.decode(out.prompt_token_ids).replace("<image>" * SIZE, "<image>") == (
        "<|user|><image>\nhello<|end|><|assistant|>"
    )
    assert llm.chat(marked, GREEDY, [picture(1)]) == out == llm.chat(parts, GREEDY, [picture(1)])
    later = [*marked, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    kept = llm.chat(later, GREEDY, [picture(1)])
    assert llm.tokenizer.decode(kept.prompt_token_ids).replace("<image>" * SIZE, "<image>") == (
        "<|user|><image>\nhello<|end|><|assistant|>a<|end|><|user|>b<|end|><|assistant|>"
    )
    assert kept.num_cached_tokens >= SIZE
    prompt = llm.chat_prompt(first, num_images=2)
    assert prompt.count(llm.config.vision.image_token_id) == 2 * SIZE


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda llm: llm.generate("hello", GREEDY, [picture(0)]), r"0 image token\(s\) and 1 imag"),
        (lambda llm: llm.generate("<image> hello"), r"1 image token\(s\) and 0 image\(s\)"),
        (lambda llm: llm.generate("<image><image>", GREEDY, [picture(0)]), "2 image token.* and 1"),
        (lambda llm: llm.generate("<image>", GREEDY, picture(0)), "must be a list of pictures"),
        (lambda llm: llm.generate("<image>", GREEDY, "cat.png"), "list of pictures, got a str"),
        (lambda llm: llm.generate(["<image>"], GREEDY, [picture(0)] * 2), "1 prompts and 2 lists"),
        (lambda llm: llm.generate(["<image>"], GREEDY, [picture(0)]), "must be a list of pictures"),
        (lambda llm: llm.generate("<image>", GREEDY, [b"text"]), "is not a picture"),
        (lambda llm: llm.generate("<image>" * 40, GREEDY, [picture(0)] * 40), "640 tokens, more"),
        (lambda llm: llm.stream("<image>"), r"1 image token\(s\) and 0"),
        (lambda llm: llm.logits([5], [picture(0)]), r"0 image token\(s\) and 1"),
        (
            lambda llm: llm.chat([{"role": "system", "content": "a"}], images=[picture(0)]),
            "no message of the user",
        ),
    ],
)
def test_pictures_that_do_not_fit_the_prompt_are_refused_at_once(llm, encoded, call, message):
    with pytest.raises(RequestError, match=message):
        call(llm)
    assert not llm.engine.scheduler.waiting
    assert not encoded


def test_a_text_only_model_refuses_pictures(tiny_llama):
    llm = LLM(tiny_llama, device="cpu")
    user = {"role": "user", "content": [{"type": "image"}]}
    for call in (
        lambda: llm.generate("hello", GREEDY, [picture(0)]),
        lambda: llm.stream("hello", GREEDY, [picture(0)]),
        lambda: llm.chat([{"role": "user", "content": "a"}], GREEDY, [picture(0)]),
        lambda: llm.chat([user], GREEDY),
    ):
        with pytest.raises(RequestError, match=r"this model.* reads text only"):
            call()


def test_settings_for_pictures_of_another_size_are_refused_before_the_weights(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    settings = (folder / "preprocessor_config.json").read_text()
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(settings.replace("30", "40"))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"\(40, 40\).*do not fill the 30 x 30 pixels"):
        LLM(tmp_path, device="cpu")
