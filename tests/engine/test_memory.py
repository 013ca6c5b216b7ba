"""The formula for memory: what a model holds, and on a GPU what it really took."""

import gc

import pytest
import torch

from litellama import LLM, SamplingParams
from litellama.engine.memory import GPU_CACHE_SHARE, share_of, step_bytes
from litellama.errors import RequestError


def test_weights_and_cache_are_counted_exactly(tiny_llama):
    llm = LLM(tiny_llama, device="cpu", dtype="bfloat16", kv_cache_tokens=100, block_size=8)
    parameters = {p.data_ptr(): p.nbytes for p in llm.model.parameters()}
    assert llm.memory.weights == sum(parameters.values())
    assert llm.memory.cache == llm.engine.runner.cache.nbytes == 96 * 3 * 2 * 3 * 10 * 2
    assert llm.memory.peak == llm.memory.weights + llm.memory.cache + llm.memory.step


def test_a_step_by_hand(tiny_llama):
    config = LLM(tiny_llama, device="cpu").config
    # 7 tokens: four of width 60 and three of 97, in 2 bytes; 3 rows of 266 logits.
    assert step_bytes(config, 7, 3, 2) == 7 * (4 * 60 + 3 * 97) * 2 + 3 * 266 * (2 + 4 + 4)


def test_the_pool_leaves_room_for_a_step():
    assert share_of(free=1_000_000, step=200_000) == int(800_000 * GPU_CACHE_SHARE)
    with pytest.raises(RequestError, match=r"leave 1 MB .* needs 2 MB: .* lower max_step_tokens"):
        share_of(free=1_000_000, step=2_000_000)


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["random:llama-3.2-1b", "random:qwen3-0.6b"])
def test_the_peak_is_as_predicted_within_five_percent(model):
    """Full steps of prompts, then decodes of all sequences, over a small and a large cache."""
    for kv_cache_tokens in (8192, 200_000):
        gc.collect()
        before = torch.cuda.memory_allocated()
        llm = LLM(model, device="cuda", kv_cache_tokens=kv_cache_tokens, max_seq_len=4096)
        torch.cuda.reset_peak_memory_stats()
        prompts = [[(7 * i + j) % 1000 for j in range(400)] for i in range(16)]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        took = torch.cuda.max_memory_allocated() - before
        assert abs(took - llm.memory.peak) < 0.05 * llm.memory.peak, (took, llm.memory)
        del llm
