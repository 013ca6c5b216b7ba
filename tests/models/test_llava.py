"""LLaVA against transformers: the tower, the projector, the logits and the tokens, each alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

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
