"""config.json: what is refused, and that the error names the file, the key and the value."""

import json

import pytest

from litellama.errors import ConfigError
from litellama.models import read_config

GOOD = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "eos_token_id": 7,
}


def write(folder, **changes):
    (folder / "config.json").write_text(json.dumps(GOOD | changes))
    return folder


def test_defaults_follow_the_llama_family(tmp_path):
    config = read_config(write(tmp_path))
    assert (config.head_dim, config.rope_theta, config.eos_token_ids) == (8, 10000.0, (7,))
    assert (config.q_size, config.kv_size) == (48, 24)
    assert config.kv_bytes_per_token(2) == 2 * 2 * 24 * 2


def test_generation_config_says_where_answers_end(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    assert read_config(write(tmp_path)).eos_token_ids == (2, 5)


def test_a_null_means_the_default(tmp_path):
    config = read_config(write(tmp_path, num_key_value_heads=None, rope_scaling=None))
    assert config.num_kv_heads == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "'MambaForCausalLM'.*supported: Llama",
        ),
        ({"architectures": None}, r"architectures must hold one name, found \[\]"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, found 0"),
        ({"hidden_size": "48"}, "hidden_size must be a positive integer, found '48'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, found True"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"num_key_value_heads": 4}, r"num_attention_heads \(6\) must be a multiple.*\(4\)"),
        ({"head_dim": 7}, r"head_dim \(7\) must be even"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps must be a positive number, found -1.0"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, found 0"),
        ({"rope_theta": float("nan")}, "rope_theta must be a positive number, found nan"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "'yarn' is not.*: linear, llama3",
        ),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "'linear' needs a factor"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object, found 'linear'"),
        ({"attention_bias": "yes"}, "attention_bias must be true or false, found 'yes'"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized weights.*'awq'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(write(tmp_path, **change))
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00\xff"], ids=["empty", "cut", "list", "binary"]
)
def test_a_file_that_is_not_a_json_object(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="does not exist: a checkpoint is a folder with"):
        read_config(tmp_path / "nowhere")
