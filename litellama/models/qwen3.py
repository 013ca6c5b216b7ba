"""Qwen3: Llama with an RMSNorm on every query head and every key head, before the rotation.

The norms keep the scores from growing in training, which is what Qwen2's biases made room for, and
so the biases are gone.  ``head_dim`` is independent of the hidden size: 128 in every published
size, even where 128 * heads is wider than the hidden state.

Source: Yang et al., "Qwen3 Technical Report", 2025, arXiv:2505.09388; the norms: Henry et al.,
"Query-Key Normalization for Transformers", 2020, arXiv:2010.04245.  Lesson 12 builds this file.
"""

from typing import Any

from litellama.config import ConfigReader, ModelConfig
from litellama.models.decoder import Attention, Decoder, RMSNorm


class Qwen3Attention(Attention):
    """Attention whose queries and keys are normed, each head on its own: weights [head_dim]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def head_norms(self) -> dict[str, Any]:
        eps = self.config.rms_norm_eps
        return {"q_norm": self.q_norm.weight, "k_norm": self.k_norm.weight, "eps": eps}


class Qwen3ForCausalLM(Decoder):
    """The decoder with normed queries and keys."""

    attention = Qwen3Attention

    @classmethod
    def read_config(cls, reader: ConfigReader) -> ModelConfig:
        bias = reader.flag("attention_bias")  # false in every published checkpoint
        head_dim = reader.size("head_dim", default=128)
        return reader.decoder(qkv_bias=bias, o_bias=bias, head_dim=head_dim)
