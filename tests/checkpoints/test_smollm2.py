"""The default model, as it lies in the cache."""

import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from litellama.checkpoints import load_weights, pull, resolve
from litellama.checkpoints.safetensors_files import open_checkpoint
from litellama.models import FAMILIES, read_config

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path):
    return AutoTokenizer.from_pretrained(smollm2)


def test_a_second_pull_is_the_same_folder_at_once(smollm2: Path):
    start = time.monotonic()
    assert pull("smollm2") == resolve("smollm2") == smollm2
    assert time.monotonic() - start < 0.5


def test_it_is_smollm2(smollm2: Path):
    config = read_config(smollm2)
    assert config.architecture == "LlamaForCausalLM"
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (30, 9, 3)
    assert (config.hidden_size, config.head_dim, config.vocab_size) == (576, 64, 49152)
    assert (config.context, config.rope_theta, config.rms_norm_eps) == (8192, 100000.0, 1e-5)
    assert config.tie_word_embeddings
    tensors = open_checkpoint(smollm2)
    assert len(tensors) == 272
    assert {tensor.dtype for tensor in tensors.values()} == {"F32"}
    assert sum(tensor.end - tensor.start for tensor in tensors.values()) == 4 * 134_515_008


def test_an_answer_ends_at_the_end_of_its_turn(smollm2: Path, tokenizer):
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert tokenizer.eos_token_id == 2
    assert read_config(smollm2).eos_token_ids == (2,)
    assert GenerationConfig.from_pretrained(smollm2).eos_token_id == 2


def test_the_chat_template_makes_the_tokens_of_a_turn(tokenizer):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True
    )["input_ids"]
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [index for index in ids if index <= 16] == [1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    "text",
    ["Hello, world", "it's 2024: 3.14²", "def f(x):\n\treturn x", "你好，世界", "🙂 naïve", ""],
)
def test_text_survives_the_tokenizer(tokenizer, text: str):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_are_single_tokens(tokenizer):
    """SmolLM2 was trained with every digit a token of its own."""
    assert [tokenizer.decode([i]) for i in tokenizer("1234").input_ids] == ["1", "2", "3", "4"]


def test_the_weights_load_well_under_a_second(smollm2: Path):
    """CPU seconds, which other work on the machine hardly changes; 0.4 is usual, files cached."""
    config = read_config(smollm2)
    model = FAMILIES[config.architecture](config)
    load_weights(model, smollm2)  # brings the file into the page cache
    start = time.process_time()
    load_weights(model, smollm2)
    assert time.process_time() - start < 1.0
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
