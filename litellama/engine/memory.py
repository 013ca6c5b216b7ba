"""How much memory the engine takes: the formula from which the KV cache is sized.

    peak = weights + cache + step
    weights = the bytes of all parameters
    cache = tokens * 2 * layers * kv_heads * head_dim * element_size
    step = T * (4 H + max(3 I, 3 (Q + KV))) * element_size + S * V * (element_size + 8)

with T the most tokens in a step, S the most sequences, H the hidden size, I the intermediate size,
Q and KV the widths of all query heads and of all key heads, V the vocabulary.  A step is at its
peak in one layer's feed-forward: the hidden state and the residual as they came into the layer and
as they stand now (4 H), gate and up (2 I) and their product (I); attention needs less unless it is
wide.  Logits of S rows exist in the model's dtype and in float32, and the sampler's penalties count
tokens in int32.  On top come pictures, for models that read them, and on a GPU another 4 S V where
some request filters and some request penalises.
"""

import os
from dataclasses import dataclass

import torch
from torch import nn

from litellama.config import ModelConfig
from litellama.errors import RequestError

# The most that the cache takes on a CPU by itself.
CPU_CACHE_BYTES = 2 << 30
# On a GPU, the share that it takes of what weights and a largest step leave; the rest is for what
# torch and CUDA keep for themselves.
GPU_CACHE_SHARE = 0.9


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, of the KV cache, and of the largest step's intermediate results."""

    weights: int
    cache: int
    step: int

    @property
    def peak(self) -> int:
        """Bytes in use when a largest step is computed."""
        return self.weights + self.cache + self.step


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters; a tied one counts once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def step_bytes(config: ModelConfig, num_tokens: int, num_seqs: int, element_size: int) -> int:
    """Bytes of a step's intermediate results, by the formula above."""
    c = config
    widest = max(3 * c.intermediate_size, 3 * (c.q_size + c.kv_size))
    per_token = (4 * c.hidden_size + widest) * element_size
    return num_tokens * per_token + num_seqs * c.vocab_size * (element_size + 8)


def cache_bytes(device: torch.device, step: int) -> int:
    """The most bytes that the KV cache may take beside a step of so many bytes; weights loaded."""
    if device.type == "cpu":
        return CPU_CACHE_BYTES
    torch.cuda.empty_cache()  # what loading has left over
    free, _ = torch.cuda.mem_get_info(device)
    return share_of(free, step)


def check_fits(device: torch.device, memory: Memory) -> None:
    """RequestError if that is more than all the memory of the device."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return  # Windows does not say it so
    if memory.peak > total:
        raise RequestError(
            f"{memory.weights / 1e9:.1f} GB of weights, {memory.cache / 1e9:.1f} of KV cache and "
            f"{memory.step / 1e9:.1f} for a step are more than the {total / 1e9:.1f} GB of memory: "
            "lower kv_cache_tokens, max_step_tokens or max_num_seqs, or take a smaller model"
        )


def share_of(free: int, step: int) -> int:
    """The cache's share of ``free`` bytes of a GPU beside a step of so many bytes."""
    if free <= step:
        raise RequestError(
            f"the weights leave {free / 1e6:.0f} MB of the GPU's memory, and a step needs "
            f"{step / 1e6:.0f} MB: no room for the KV cache; lower max_step_tokens or "
            "max_num_seqs, or take a smaller model"
        )
    return int((free - step) * GPU_CACHE_SHARE)
