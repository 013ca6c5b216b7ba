"""Where weights come from: safetensors folders, GGUF files, the hub and the default model."""

from litellama.checkpoints.cache import cache_dir
from litellama.checkpoints.conversion import convert
from litellama.checkpoints.download import pull, resolve
from litellama.checkpoints.weights import load_weights

__all__ = ["cache_dir", "convert", "load_weights", "pull", "resolve"]
