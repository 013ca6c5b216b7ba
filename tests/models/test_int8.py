"""Weights in 8 bits: what a layer computes, what is replaced, and that it still talks sense."""

import pytest
import torch

from litellama import LLM, SamplingParams
from litellama.arguments import pick_dtype
from litellama.errors import RequestError
from litellama.models.int8 import FEW_ROWS, Int8Linear
from litellama.models.linear import Linear
from tests.checkpoint_maker import make_llama


@pytest.mark.parametrize("rows", [0, 1, 3, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
def test_a_layer_is_the_product_with_the_rounded_weights(rows, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 96).bfloat16(), torch.randn(70, 96).bfloat16()
    b = torch.randn(70).bfloat16() if bias else None
    layer = Int8Linear(weight, b)
    kept = layer.weight.double() * layer.scale.double()[:, None]
    product = x.double() @ kept.T
    expected = product + (b.double() if bias else 0)
    assert ((layer(x).double() - expected).abs() <= 2**-7 * (1 + product.abs())).all()
    assert layer(x).shape == (rows, 70)
    assert layer(x).dtype == torch.bfloat16


def test_each_weight_is_within_half_a_step_of_its_row():
    torch.manual_seed(0)
    weight = (torch.randn(50, 64) * torch.logspace(-3, 2, 50)[:, None]).bfloat16()
    weight[7] = 0  # a row of zeros has no largest weight
    layer = Int8Linear(weight, None)
    kept = layer.weight.float() * layer.scale.float()[:, None]
    # Half a step of rounding, and the scale's own rounding to bfloat16, at most 127 steps away.
    allowed = layer.scale.float() * (0.5 + 127 * 2**-8)
    assert ((kept - weight.float()).abs() <= allowed[:, None]).all()
    assert layer.weight.abs().amax(dim=1).tolist() == [127] * 7 + [0] + [127] * 42


@pytest.mark.parametrize("tied", [True, False])
def test_every_linear_layer_is_replaced_and_the_embedding_is_not(tmp_path, tied):
    make_llama(tmp_path / "llama", tie_word_embeddings=tied)
    llm = LLM(tmp_path / "llama", device="cpu", dtype="int8")
    full = LLM(tmp_path / "llama", device="cpu", dtype="bfloat16")
    assert not any(isinstance(module, Linear) for module in llm.model.modules())
    assert isinstance(llm.model.lm_head, Int8Linear)
    assert llm.model.embed_tokens.dtype == torch.bfloat16
    assert (llm.dtype, llm.weight_dtype) == (torch.bfloat16, torch.int8)
    prompt = list(range(3, 24))
    ours, theirs = (engine.logits(prompt).float() for engine in (llm, full))
    assert 0 < (ours - theirs).norm() / theirs.norm() < 0.05


@pytest.mark.model
def test_smollm2_still_says_the_capital_of_france(smollm2):
    llm = LLM(smollm2, device="cpu", dtype="int8")
    out = llm.chat(
        [{"role": "user", "content": "What is the capital of France?"}],
        SamplingParams(temperature=0, max_tokens=12),
    )
    assert "Paris" in out.text
    assert llm.memory.weights < 0.75 * LLM(smollm2, device="cpu", dtype="bfloat16").memory.weights


def test_a_gpu_is_refused():
    with pytest.raises(RequestError, match="'int8' is for a CPU, not for cuda"):
        pick_dtype("int8", torch.device("cuda"))
