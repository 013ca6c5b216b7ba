"""LLaVA against transformers: the tower, the projector, the logits and the tokens, each alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from litellama import LLM, SamplingParams
from litellama.checkpoints import load_weights
from litellama.errors import CheckpointError, ConfigError
from litellama.models import empty_model, read_config
from tests.checkpoint_maker import make_llava

VARIANTS = {
    "llama": {},
    "published_names": {"spelling": "published"},
    "newer_names_untied": {
        "spelling": "newer",
        "tie_word_embeddings": False,
        "text": {"tie_word_embeddings": False},
    },
    "sharded": {"max_shard_size": "60KB"},
    "tied_by_its_text_config_only": {"tie_word_embeddings": False},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3"},
    "class_token_last_layer": {
        "vision_feature_select_strategy": "full",
        "vision_feature_layer": -1,
    },
    "first_layer_no_projector_bias": {
        "vision_feature_layer": 1,
        "multimodal_projector_bias": False,
    },
    "gelu_other_eps": {"vision": {"hidden_act": "gelu", "layer_norm_eps": 0.1}},
    "whole_patches": {"vision": {"image_size": 32, "patch_size": 8, "hidden_size": 39}},
}


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request, tmp_path_factory) -> Path:
    """A random checkpoint that transformers wrote."""
    return make_llava(tmp_path_factory.mktemp("llava"), **VARIANTS[request.param])


@pytest.fixture(scope="module")
def theirs(folder, device) -> LlavaForConditionalGeneration:
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval().to(device)


@pytest.fixture(scope="module")
def ours(folder, device):
    model = empty_model(read_config(folder), torch.device(device), torch.float32)
    load_weights(model, folder)
    return model


def random_pixels(count: int, size: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, size, size, generator=generator).to(device)


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 3])
def test_vision_features_and_projected_tokens(ours, theirs, device, count):
    """float32, to 1e-4 for values of size one."""
    c = theirs.config
    pixels = random_pixels(count, c.vision_config.image_size, device)
    layers = theirs.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    expected = layers[c.vision_feature_layer]
    if c.vision_feature_select_strategy == "default":
        expected = expected[:, 1:]
    features = ours.vision_tower(pixels)
    assert features.shape == expected.shape
    assert features.shape[1] == ours.config.vision.num_image_tokens
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.5
    projected = torch.stack(list(theirs.get_image_features(pixels).pooler_output))
    torch.testing.assert_close(ours.image_features(pixels), projected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def llm(folder, device) -> LLM:
    return LLM(folder, device=device, dtype="float32", block_size=4)


def picture(seed: int, width: int = 41, height: int = 33) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompt(llm: LLM, seed: int, *lengths: int) -> list[int]:
    """Random words of the given lengths, and an image token between one run of words and the next.

    Two neighbouring pictures have no word between them where a length is 0.
    """
    rng, ids = random.Random(seed), []
    for i, length in enumerate(lengths):
        ids += [llm.config.vision.image_token_id] * (i > 0)
        ids += [rng.randrange(256) for _ in range(length)]
    return ids


def inputs_of(llm: LLM, theirs, ids: list[int], images: list[Image.Image]) -> dict:
    """What transformers' processor makes of a prompt: markers expanded, pictures prepared."""
    vision = llm.config.vision
    each = {vision.image_token_id: vision.num_image_tokens}
    inputs = {"input_ids": torch.tensor([[i for t in ids for i in [t] * each.get(t, 1)]])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if images:
        size = {"height": vision.image_size, "width": vision.image_size}
        process = CLIPImageProcessorPil(size={"shortest_edge": vision.image_size}, crop_size=size)
        inputs["pixel_values"] = process(images, return_tensors="pt").pixel_values
    return {name: tensor.to(theirs.device) for name, tensor in inputs.items()}


def greedy(llm: LLM, theirs, ids: list[int], images: list[Image.Image], count: int) -> list[int]:
    """transformers' greedy continuation, never stopping early."""
    inputs = inputs_of(llm, theirs, ids, images)
    theirs.generation_config.eos_token_id = None
    out = theirs.generate(**inputs, do_sample=False, max_new_tokens=count, pad_token_id=0)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


# The lengths of the words around the pictures; how many pictures follows.
SHAPES = [(5, 9), (0, 3), (8, 0, 2), (1, 4, 0, 6), (7, 0), (30,), (2,)]


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(llm, theirs, shape):
    ids, images = prompt(llm, 3, *shape), [picture(i) for i in range(len(shape) - 1)]
    expected = theirs(**inputs_of(llm, theirs, ids, images)).logits[0].cpu()
    torch.testing.assert_close(llm.logits(ids, images), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.5
    if images:  # the pictures are seen
        others = [picture(i + 100) for i in range(len(images))]
        assert (llm.logits(ids, others)[-1] - expected[-1]).abs().max() > 1e-3


PARAMS = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def test_greedy_tokens_alone_and_among_texts_and_pictures(llm, theirs):
    prompts = [prompt(llm, i, *shape) for i, shape in enumerate(SHAPES)]
    images = [[picture(i + j) for j in range(len(s) - 1)] for i, s in enumerate(SHAPES)]
    expected = [greedy(llm, theirs, *pair, 12) for pair in zip(prompts, images, strict=True)]
    for ids, some, tokens in zip(prompts, images, expected, strict=True):
        assert llm.generate(ids, PARAMS, some)[0].token_ids == tokens
    assert [o.token_ids for o in llm.generate(prompts, PARAMS, images)] == expected
    backwards = llm.generate(prompts[::-1], PARAMS, images[::-1])
    assert [o.token_ids for o in backwards[::-1]] == expected


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_bfloat16_on_a_gpu_is_as_near_to_float32_as_transformers_is(tmp_path, family):
    """Relative error of the logits, ||out - ref|| / ||ref||: at most 5%, and no more than 1.25
    times that of transformers in bfloat16."""
    folder = make_llava(
        tmp_path,
        family,
        text={"hidden_size": 288, "num_attention_heads": 9, "head_dim": 40},
        vision={"hidden_size": 144, "num_attention_heads": 3, "image_size": 64, "patch_size": 8},
    )
    llm = LLM(folder, device="cuda", dtype="bfloat16")
    ids, images = prompt(llm, 0, 30, 40, 50), [picture(0), picture(1)]
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval().cuda()
        logits[dtype] = model(**inputs_of(llm, model, ids, images)).logits[0].float().cpu()
    exact = logits[torch.float32]
    our_error, their_error = (
        (x - exact).norm() / exact.norm() for x in (llm.logits(ids, images), logits[torch.bfloat16])
    )
    print(f"{family}: ours {our_error:.4f}, transformers {their_error:.4f}")
    assert our_error < 0.05
    assert our_error < 1.25 * their_error


BAD_CONFIGS = {
    "image_token_outside": ({"image_token_index": 5000}, "image_token_index must be a token id be"),
    "several_layers": ({"vision_feature_layer": [-2, -1]}, "one layer's number, found"),
    "layer_outside": ({"vision_feature_layer": -7}, "is -7, and the tower has 3 layers"),
    "strategy": ({"vision_feature_select_strategy": "cls"}, "'cls' is not supported"),
    "projector": ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not"),
    "tower": ({"vision_config": {"model_type": "siglip_vision_model"}}, "'siglip_vision_model'"),
    "text": ({"text_config": {"model_type": "mistral"}}, "model_type 'mistral' is not supported"),
    "heads": ({"vision_config": {"hidden_size": 35}}, r"vision_config: hidden_size \(35\) must be"),
    "patches": ({"vision_config": {"patch_size": 31}}, "larger than image_size"),
    "channels": ({"vision_config": {"num_channels": 1}}, "num_channels must be 3"),
    "no_object": ({"vision_config": 3}, "vision_config must be an object, found 3"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return make_llava(tmp_path_factory.mktemp("small"))


def changed_config(small: Path, folder: Path, changes: dict) -> Path:
    """A folder whose config differs from the small model's, and whose other files are links."""

    config = json.loads((small / "config.json").read_text())
    for key, value in changes.items():
        merges = isinstance(value, dict)
        config[key] = config[key] | value if merges else value
    for path in small.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_config_that_cannot_be_run_is_refused_with_the_key_and_the_value(small, tmp_path, name):
    changes, message = BAD_CONFIGS[name]
    folder = changed_config(small, tmp_path, changes)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(folder)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config": {"patch_size": 6}}, r"patch_embedding\.weight is .*must be .*6, 6"),
        ({"vision_config": {"num_hidden_layers": 5}}, r"lacks 16 .*encoder\.layers\.3"),
        ({"vision_config": {"hidden_size": 39}}, r"class_embedding is \[36\] and must be \[39\]"),
    ],
    ids=["patch_size", "layers", "width"],
)
def test_a_vision_config_that_does_not_fit_the_weights(small, tmp_path, changes, message):
    folder = changed_config(small, tmp_path, changes)
    model = empty_model(read_config(folder), torch.device("cpu"), torch.float32)
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, folder)


def test_a_tensor_in_both_spellings_is_refused(small, tmp_path):
    folder = changed_config(small, tmp_path, {})
    tensors = load_file(small / "model.safetensors")
    twice = "vision_tower.embeddings.class_embedding"
    (folder / "model.safetensors").unlink()
    save_file(tensors | {f"model.{twice}": tensors[twice].clone()}, folder / "model.safetensors")
    model = empty_model(read_config(folder), torch.device("cpu"), torch.float32)
    with pytest.raises(
        CheckpointError, match=r"has both .*class_embedding.* and .*class_embedding"
    ):
        load_weights(model, folder)
