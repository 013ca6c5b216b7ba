"""SmolLM2-135M-Instruct, the default model, against transformers in float32; bfloat16 on a GPU."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from litellama import LLM, SamplingParams

pytestmark = pytest.mark.model

TEXTS = {
    "english": "The lighthouse keeper climbed the stairs, counting each one aloud as he had done.",
    "question": "What is a large language model? Answer in two sentences.",
    "code": "def fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "json": '{"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"]}',
    "chinese": "床前明月光,疑是地上霜。举头望明月,低头思故乡。",
    "emoji": "👩‍👩‍👧‍👦 went to the 🏖️ and saw a 🦀 and two 🐚🐚!",
    "numbers": "3.14159 26535 89793 = pi; 2.71828 = e; 1/0 is undefined; 0xFF == 255",
    "german": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "one_token": "Hello",
    "long": "",  # 1,000 tokens, made in the fixture
}


@pytest.fixture(scope="module")
def llm(smollm2, device) -> LLM:
    return LLM(smollm2, device=device, dtype="float32")


@pytest.fixture(scope="module")
def theirs(smollm2, device):
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval().to(device)


def ids_of(llm: LLM, name: str) -> list[int]:
    if name != "long":
        return llm.tokenizer.encode(TEXTS[name])
    text = " ".join(TEXTS[n] for n in ("english", "code", "german")) * 20
    ids = llm.tokenizer.encode(text)[:1000]
    assert len(ids) == 1000
    return ids


@torch.inference_mode()
@pytest.mark.parametrize("name", TEXTS)
def test_logits_within_a_thousandth(llm, theirs, name):
    ids = ids_of(llm, name)
    expected = theirs(torch.tensor([ids], device=theirs.device)).logits[0].cpu()
    torch.testing.assert_close(llm.logits(ids), expected, rtol=0, atol=1e-3)


def test_64_greedy_tokens_alone_and_together_in_any_order(llm, theirs):
    params = SamplingParams(temperature=0.0, max_tokens=64)
    prompts = [
        llm.chat_prompt([{"role": "user", "content": TEXTS[name]}]) if chat else ids_of(llm, name)
        for name, chat in zip(TEXTS, [False, True, True, False, True] * 2, strict=True)
    ]
    expected = [greedy(theirs, ids, 64) for ids in prompts]
    assert [o.token_ids for o in llm.generate(prompts, params)] == expected
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = llm.generate([prompts[i] for i in order], params)
    assert [o.token_ids for o in shuffled] == [expected[i] for i in order]
    assert [llm.generate(ids, params)[0].token_ids for ids in prompts[:4]] == expected[:4]


def greedy(model, ids: list[int], count: int) -> list[int]:
    """transformers' greedy continuation, the end-of-text token included."""
    prompt = torch.tensor([ids], device=model.device)
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count
    )
    return out[0, len(ids) :].tolist()


def test_the_known_answer(llm):
    message = {"role": "user", "content": TEXTS["question"]}
    out = llm.chat([message], SamplingParams(temperature=0.0, max_tokens=64))
    assert out.text == (
        "A large language model is a computer program that can generate and analyze vast amounts "
        "of text data, often using natural language processing (NLP) techniques."
    )
    assert out.finish_reason == "stop"
    assert out.token_ids[-1] in llm.config.eos_token_ids


def test_as_a_qwen2_checkpoint_with_zero_biases_it_says_the_same(llm, smollm2, tmp_path, device):
    """The weights stay in their file; a second one adds the biases that Qwen2 has."""
    qwen2 = LLM(as_qwen2(smollm2, tmp_path), device=device, dtype="float32")
    assert type(qwen2.model).__name__ == "Qwen2ForCausalLM"
    assert qwen2.model.layers[29].self_attn.qkv_proj.bias is not None
    params = SamplingParams(temperature=0.0, max_tokens=32)
    prompts = [ids_of(llm, name) for name in TEXTS]
    same = [o.token_ids for o in llm.generate(prompts, params)]
    assert [o.token_ids for o in qwen2.generate(prompts, params)] == same


def as_qwen2(smollm2: Path, folder: Path) -> Path:
    """A folder whose config says Qwen2, with a link to SmolLM2's weights and a file of zeros."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).symlink_to(smollm2 / name)
    config = json.loads((smollm2 / "config.json").read_text())
    config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "weights.safetensors").symlink_to(smollm2 / "model.safetensors")
    zeros = {
        f"model.layers.{layer}.self_attn.{part}_proj.bias": torch.zeros(576 if part == "q" else 192)
        for layer in range(30)
        for part in "qkv"
    }
    save_file(zeros, folder / "biases.safetensors")
    with safe_open(folder / "weights.safetensors", "pt") as file:
        places = dict.fromkeys(file.keys(), "weights.safetensors")
    places |= dict.fromkeys(zeros, "biases.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.gpu
@torch.inference_mode()
def test_bfloat16_on_a_gpu(smollm2):
    """Relative error of the logits against float32, ||out - ref|| / ||ref||: at most 4% for a text
    and 10% for a single token, and over all texts no more than 1.25 times that of transformers in
    bfloat16."""
    llm = LLM(smollm2, device="cuda", dtype="bfloat16")
    models = [
        AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype).eval().to("cuda")
        for dtype in (torch.float32, torch.bfloat16)
    ]
    ours, theirs = [], []
    for name in TEXTS:
        ids = ids_of(llm, name)
        prompt = torch.tensor([ids], device="cuda")
        exact, half = (model(prompt).logits[0].float().cpu() for model in models)
        ours.append((llm.logits(ids) - exact).norm() / exact.norm())
        theirs.append((half - exact).norm() / exact.norm())
    print("ours", [f"{e:.4f}" for e in ours], "transformers", [f"{e:.4f}" for e in theirs])
    assert all(
        e < (0.1 if name == "one_token" else 0.04) for name, e in zip(TEXTS, ours, strict=True)
    )
    assert sum(ours) < 1.25 * sum(theirs)
