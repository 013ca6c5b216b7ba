"""Rotary frequencies, and the cos and sin tables of one step's positions.

Lesson 04 explains this file.
"""

import math

import torch

from litellama.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> torch.Tensor:
    """float32 [head_dim / 2]: radians per position of each rotated pair, scaling applied."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        return llama3_frequencies(frequencies, scaling)
    return frequencies


def llama3_frequencies(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Llama 3.1's rule: stretch what turns slowly, keep what turns fast, blend in between.

    A pair that turns fewer than ``low_freq_factor`` times over the original context is divided by
    ``factor``; one that turns more than ``high_freq_factor`` times is kept.
    """
    turns = scaling.original_context * frequencies / (2 * math.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / width).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def rotary_tables(
    positions: torch.Tensor, frequencies: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [T, head_dim / 2] each, of integer positions [T]."""
    angles = positions[:, None].float() * frequencies
    return angles.cos(), angles.sin()
