"""Llama 1, 2 and 3.x (and what shares its architecture, such as SmolLM2): the decoder as it is.

Source: Touvron et al., "LLaMA", 2023, arXiv:2302.13971; Grattafiori et al., "The Llama 3 Herd of
Models", 2024, arXiv:2407.21783.  Lesson 11 builds this file.
"""

from litellama.config import ConfigReader, ModelConfig
from litellama.models.decoder import Decoder


class LlamaForCausalLM(Decoder):
    """A pre-norm decoder with grouped-query attention, RoPE and SwiGLU: nothing to add."""

    @classmethod
    def read_config(cls, reader: ConfigReader) -> ModelConfig:
        bias = reader.flag("attention_bias")
        return reader.decoder(qkv_bias=bias, o_bias=bias, mlp_bias=reader.flag("mlp_bias"))
