"""Presets: the sizes of the published checkpoints, and random weights that run without one."""

import pytest
import torch
from PIL import Image

from litellama import LLM, SamplingParams
from litellama.errors import RequestError
from litellama.models import empty_model, presets

# Parameters of the published safetensors, tied embeddings counted once.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    # Less the last layer of the vision tower and the norm after it, which LLaVA does not use.
    "llava-1.5-7b": 7_063_427_072 - 12_598_272,
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_has_as_many_parameters_as_the_published_checkpoint(name):
    config = presets.preset_config(name)
    model = empty_model(config, torch.device("meta"), torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.fixture(scope="module")
def small():
    """A preset small enough for a test."""
    tiny = presets.PRESETS["qwen2.5-0.5b"] | {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
        "num_attention_heads": 4,
    }  # fmt: skip
    presets.PRESETS["tiny"] = tiny
    yield
    del presets.PRESETS["tiny"]


def test_random_weights_are_as_said_and_repeatable(small):
    config = presets.preset_config("random:tiny")
    model, again, other = (
        presets.random_model(config, torch.device("cpu"), torch.float32, seed) for seed in (0, 0, 1)
    )
    assert model.embed_tokens.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(model.norm.weight, torch.ones(32))
    assert not model.layers[0].self_attn.qkv_proj.bias.any()
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(model.embed_tokens, other.embed_tokens)


def test_the_front_door_runs_a_preset_on_token_ids(small):
    llm = LLM("random:tiny", device="cpu", kv_cache_tokens=64)
    out = llm.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))[0]
    assert len(out.token_ids) == 5
    assert out.text == "".join(f" {i}" for i in out.token_ids)
    with pytest.raises(RequestError, match="no tokenizer: give the prompt as a list of token ids"):
        llm.generate("hello")
    with pytest.raises(RequestError, match="no chat template"):
        llm.chat([{"role": "user", "content": "hello"}])


def test_a_llava_preset_takes_pictures_without_a_checkpoint():
    preset = presets.PRESETS["llava-1.5-7b"]
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 100,
            "num_attention_heads": 4}  # fmt: skip
    vision = text | {"image_size": 56, "model_type": "clip_vision_model"}
    presets.PRESETS["tiny-llava"] = preset | {
        "text_config": preset["text_config"] | text,
        "vision_config": preset["vision_config"] | vision,
        "image_token_index": 99,
    }
    try:
        llm = LLM("random:tiny-llava", device="cpu", kv_cache_tokens=64)
    finally:
        del presets.PRESETS["tiny-llava"]
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    red, blue = (Image.new("RGB", (80, 60), colour) for colour in ("red", "blue"))
    out = llm.generate([5, 99, 6], params, [red])[0]
    assert (len(out.prompt_token_ids), len(out.token_ids)) == (18, 3)
    assert not torch.equal(llm.logits([5, 99], [red]), llm.logits([5, 99], [blue]))


def test_an_unknown_preset_is_refused_by_name():
    with pytest.raises(RequestError, match=r"no preset 'gpt-5'; there are smollm2-135m, llama"):
        LLM("random:gpt-5", device="cpu")
