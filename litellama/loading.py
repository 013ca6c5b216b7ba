"""A checkpoint's folder to a tokenizer and a model.

Lesson 11 uses this file.
"""

from pathlib import Path
from typing import Any

import torch

from litellama.checkpoints import load_weights
from litellama.config import ModelConfig, read_json
from litellama.errors import CheckpointError
from litellama.models import Model, empty_model


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer, from its own files; no code from the checkpoint is run."""
    # tokenizer.json says everything; going through AutoTokenizer only takes a second longer.
    complete = (folder / "tokenizer.json").exists()
    try:
        import transformers

        loader = transformers.PreTrainedTokenizerFast if complete else transformers.AutoTokenizer
        tokenizer = loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a broken tokenizer file
        raise CheckpointError(f"{folder}: the tokenizer could not be read: {error}") from error
    older = folder / "chat_template.json"  # where LLaVA's checkpoints of 2024 keep it
    if not tokenizer.chat_template and older.exists():
        tokenizer.chat_template = read_json(older).get("chat_template")
    return tokenizer


def load_model(
    config: ModelConfig, folder: Path, device: torch.device, dtype: torch.dtype
) -> Model:
    """The family's decoder with the checkpoint's weights, on the device, in the dtype."""
    model = empty_model(config, device, dtype)
    load_weights(model, folder)
    return model
