"""Weights in 8 bits: half of bfloat16's bytes, for a CPU that makes one text at a time.

    W[i, j] is about  scale[i] * Q[i, j],   Q int8,  scale[i] = max_j |W[i, j]| / 127

y = x W^T then reads half the bytes: sum_j x[j] Q[i, j] is a row's product, and its scale comes
after it.  For a step of one token, which does little but read weights, that is nearly twice as
quick; from 8 tokens on bfloat16 itself is quicker, and a prompt pays for turning Q back into
bfloat16.  Answers differ a little from bfloat16's: each weight is off by up to half of its scale.

The embedding stays as it is: a step looks up a row of it for each token and reads no more.
One scale for each row is what LLM.int8() calls vector-wise quantisation of the weights
(Dettmers et al., 2022).  Lesson 05 explains the layer that this one takes the place of.
"""

import torch
import torch.nn.functional as F
from torch import nn

from litellama.models.decoder import Decoder
from litellama.models.linear import Linear

# Rows up to which torch's product of int8 weights is quicker than turning them into bfloat16.
FEW_ROWS = 16


class Int8Linear(nn.Module):
    """y = x W^T + b, with W [out_features, in_features] kept as int8 and a scale for each row."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """weight: bfloat16 [out_features, in_features] on a CPU."""
        super().__init__()
        scale = weight.abs().amax(dim=1).float().clamp(min=1e-12) / 127
        rounded = (weight.float() / scale[:, None]).round().to(torch.int8)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.scale = nn.Parameter(scale.to(weight.dtype), requires_grad=False)
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x bfloat16 [tokens, in_features] -> [tokens, out_features]."""
        if 0 < len(x) <= FEW_ROWS:
            # The operator behind torch's own int8 models on CPUs; private, but stable since 2.3.
            out = torch.ops.aten._weight_int8pack_mm(x.contiguous(), self.weight, self.scale)
        else:
            out = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return out if self.bias is None else out + self.bias


def quantise(decoder: Decoder) -> None:
    """Replace every linear layer of a bfloat16 decoder on a CPU; a tied head becomes its own."""
    for module in list(decoder.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, Linear):
                setattr(module, name, Int8Linear(layer.weight, layer.bias))
    if decoder.lm_head is None:
        head = Int8Linear(decoder.embed_tokens, None)
        decoder.lm_head = head  # type: ignore[assignment]  # Linear is not its base: no forward_few
