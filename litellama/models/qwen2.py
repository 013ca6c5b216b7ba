"""Qwen2 and Qwen2.5: Llama with a bias on the queries, keys and values, and on nothing else.

Source: Yang et al., "Qwen2 Technical Report", 2024, arXiv:2407.10671; Qwen Team, "Qwen2.5 Technical
Report", 2024, arXiv:2412.15115.  Lesson 12 builds this file.
"""

from litellama.config import ConfigReader, ModelConfig
from litellama.models.decoder import Decoder


class Qwen2ForCausalLM(Decoder):
    """The decoder with three biases, which config.json does not mention: the family has them."""

    @classmethod
    def read_config(cls, reader: ConfigReader) -> ModelConfig:
        return reader.decoder(qkv_bias=True)
