"""Lesson 11's pictures: the logit lens, the bytes of a token, and the recorded steps."""

import json
import math

import pytest
import torch

from litellama.course import figures, llama
from litellama.models import empty_model
from litellama.models.presets import preset_config


def lens(layers: int = 3) -> llama.Lens:
    """Layer i makes word i of a vocabulary of 40 likely, at each of two tokens."""
    logits = torch.zeros(layers + 1, 2, 40)
    for layer in range(layers + 1):
        logits[layer, :, layer] = 3.0
    return llama.Lens(["one", " two"], logits.softmax(-1), lambda i: f" w{i}$")


def test_the_lens_names_the_likeliest_words():
    ((word, sure),) = lens().top(2, -1, 1)
    assert word == r"' w2\$'"  # a lone dollar sign would begin a formula
    assert sure == pytest.approx(math.exp(3) / (math.exp(3) + 39))
    assert lens().answer == 3


@pytest.mark.parametrize("layer", [0, 3])
def test_the_lens_is_drawn_at_both_ends(layer):
    lenses = {"a text": lens()}
    assert figures.png(llama.lens_layer(lenses, "a text", layer)).startswith(b"\x89PNG")
    words = llama.lens_layer_alt(lenses, "a text", layer)
    assert f"after layer {layer}" in words
    assert f"w{layer}" in words


def test_the_grid_shows_the_last_layers():
    assert llama.lens_rows(lens(30))[-4:] == [27, 28, 29, 30]
    assert "layer 3 ' w3" in llama.lens_grid_alt(lens())
    assert figures.png(llama.lens_grid(lens())).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.2-1b", "llama-3.1-8b"])
def test_the_bytes_of_a_token_are_the_matrices_and_the_cache(name):
    config = preset_config(name)
    model = empty_model(config, torch.device("meta"), torch.bfloat16)
    used = {n: p for n, p in model.named_parameters() if p.ndim == 2}
    if not config.tie_word_embeddings:
        del used["embed_tokens"]  # only one row of it is read
    parts = llama.token_bytes(config, keys=7)
    assert parts.pop("KV cache") == 7 * config.kv_bytes_per_token(2)
    assert sum(parts.values()) == sum(p.nbytes for p in used.values())


def test_the_shares_are_said_as_they_are_drawn():
    configs = {"small": preset_config("smollm2-135m")}
    assert "KV cache 0%" in llama.byte_shares_alt(configs, 0)
    assert figures.png(llama.byte_shares(configs, 0)).startswith(b"\x89PNG")


def test_an_error_of_zero_can_be_drawn_on_a_log_scale():
    figure = llama.error_by_layer({"right": [0.0, 0.0], "wrong": [0.0, 0.5]})
    assert figures.png(figure).startswith(b"\x89PNG")


def test_recorded_steps_are_of_one_request_and_gpus_come_first(tmp_path):
    def write(name, **fields):
        record = {
            "kind": "generate",
            "work": {"batch": 1},
            "model": "smollm2",
            "dtype": "float32",
            "date": "2026-01-02",
            "cpu": "a CPU",
            "peers": {"litellama": {"ms_per_token": 4.0, "fraction_of_limit": 0.5}},
        }
        (tmp_path / f"engine_{name}.json").write_text(json.dumps(record | fields))

    assert llama.recorded_steps(tmp_path) == []
    write("a")
    write("b", work={"batch": 8})
    write("c", gpu="a GPU")
    write("d", kind="serving")
    found = llama.recorded_steps(tmp_path)
    assert [record.get("gpu") for record in found] == ["a GPU", None]
    figure, words = llama.step_bars(found[0])
    assert "on a GPU, 2026-01-02" in words
    assert "litellama 4.00; the least for its bytes 2.00" in words
    assert figures.png(figure).startswith(b"\x89PNG")
