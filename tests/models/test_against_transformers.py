"""The decoder against transformers, on small random checkpoints that transformers wrote."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from litellama import LLM, SamplingParams, kernels
from tests.checkpoint_maker import make_decoder

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS = {
    "3_kv_heads": {"num_attention_heads": 6, "num_key_value_heads": 3},
    "as_many_kv_heads": {"num_attention_heads": 5, "num_key_value_heads": 5},
    "1_kv_head_head_dim_40": {"num_key_value_heads": 1, "head_dim": 40},
    "head_dim_80_is_hidden_over_heads": {
        "hidden_size": 240,
        "num_attention_heads": 3,
        "head_dim": None,
    },
    "untied_head": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama3_rope_scaling": {"rope_parameters": LLAMA3_SCALING},
    "linear_rope_scaling": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    },
    "other_eps": {"rms_norm_eps": 0.1},
    "sharded": {"max_shard_size": "50KB", "tie_word_embeddings": False},
    "qwen2": {"family": "qwen2"},
    "qwen2_untied_5_heads": {
        "family": "qwen2",
        "tie_word_embeddings": False,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
    },
    "qwen2_window_given_and_not_used": {"family": "qwen2", "sliding_window": 8},
    "qwen3": {"family": "qwen3"},
    "qwen3_heads_wider_than_hidden": {"family": "qwen3", "head_dim": 22, "rms_norm_eps": 0.01},
    "qwen3_untied_biases": {
        "family": "qwen3",
        "tie_word_embeddings": False,
        "attention_bias": True,
    },
    "qwen3_sharded": {"family": "qwen3", "max_shard_size": "50KB"},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, device, tmp_path_factory) -> tuple[LLM, PreTrainedModel]:
    """Our LLM and transformers' model of one checkpoint."""
    settings = {"family": "llama"} | VARIANTS[request.param]
    folder: Path = make_decoder(tmp_path_factory.mktemp("variant"), **settings)
    assert (len(list(folder.glob("*.safetensors"))) > 2) == ("max_shard_size" in settings)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    return LLM(folder, device=device, dtype="float32", block_size=4), theirs


def random_ids(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 260, (count,), generator=generator).tolist()


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 2, 37, 200])
def test_logits(pair, tokens):
    llm, theirs = pair
    ids = random_ids(tokens, seed=tokens)
    expected = theirs(torch.tensor([ids], device=theirs.device)).logits[0].cpu()
    torch.testing.assert_close(llm.logits(ids), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.5, "logits this flat would hide a mistake"


def test_greedy_tokens_alone_and_together(pair):
    llm, theirs = pair
    prompts = [random_ids(n, seed=n) for n in (1, 5, 16, 17, 90)]
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    expected = [greedy(theirs, ids, 24) for ids in prompts]
    assert [llm.generate(ids, params)[0].token_ids for ids in prompts] == expected
    assert [o.token_ids for o in llm.generate(prompts, params)] == expected
    backwards = [o.token_ids for o in llm.generate(prompts[::-1], params)]
    assert backwards[::-1] == expected


def greedy(model: PreTrainedModel, ids: list[int], count: int) -> list[int]:
    """transformers' greedy continuation, never stopping early."""
    prompt = torch.tensor([ids], device=model.device)
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_one_token_with_its_norms_and_adds_in_the_linear_layers(tmp_path, family, device):
    """The path of one row on a GPU, in the interpreter where there is none."""
    settings = {"attention_bias": True} if family != "qwen2" else {}
    llm = LLM(make_decoder(tmp_path, family, **settings), device=device, dtype="float32")
    with kernels.use_backend("torch"):
        expected = [llm.logits([token]) for token in (5, 60)]
    with kernels.use_backend("triton"):
        logits = [llm.logits([token]) for token in (5, 60)]
    for mine, right in zip(logits, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-4)


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_bfloat16_on_a_gpu_is_as_near_to_float32_as_transformers_is(tmp_path, family):
    """Relative error of the logits, ||out - ref|| / ||ref||: at most 4%, and no more than 1.25
    times that of transformers in bfloat16."""
    folder = make_decoder(tmp_path, family, hidden_size=288, num_attention_heads=9, head_dim=40)
    ids = random_ids(300, seed=0)
    prompt = torch.tensor([ids], device="cuda")
    exact, theirs = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=d)
        .eval()
        .to("cuda")(prompt)
        .logits[0]
        .float()
        for d in (torch.float32, torch.bfloat16)
    )
    ours = LLM(folder, device="cuda", dtype="bfloat16").logits(ids).to("cuda")
    our_error, their_error = ((x - exact).norm() / exact.norm() for x in (ours, theirs))
    assert our_error < 0.04
    assert our_error < 1.25 * their_error


def test_old_and_new_spellings_of_the_rope_settings_are_one(tmp_path):
    """Checkpoints on the hub carry rope_theta and rope_scaling; transformers 5 groups them."""
    from litellama.models import parse_config

    base = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    scaling = {key: value for key, value in LLAMA3_SCALING.items() if key != "rope_theta"}
    old = parse_config(base | {"rope_theta": 50000.0, "rope_scaling": scaling})
    new = parse_config(base | {"rope_parameters": LLAMA3_SCALING})
    assert old == new
    assert old.rope_theta == 50000.0
    assert old.rope_scaling.kind == "llama3"
