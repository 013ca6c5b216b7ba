"""The models: one decoder, and for each family a file that says only what is different."""

from litellama.models.llama import LlamaForCausalLM

# The architecture names of config.json, and the class that runs each.
FAMILIES = {"LlamaForCausalLM": LlamaForCausalLM}

__all__ = ["FAMILIES", "LlamaForCausalLM"]
