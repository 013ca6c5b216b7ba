"""The one transformer: every family is this decoder with a few settings.

Tokens of all sequences of a step are packed on one axis, [T, hidden], with no padding.  The
residual stream travels beside the hidden state as ``(hidden, residual)``: each sublayer returns
what it adds, and the next norm adds it (``skip_rms_norm``).  Lesson 11 builds this file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from litellama import kernels
from litellama.config import ConfigReader, ModelConfig
from litellama.kernels import AttentionBatch
from litellama.models.linear import Linear, are_few, linear
from litellama.models.rotary import inverse_frequencies, rotary_tables

# For one parameter: the checkpoint tensors, each with its shape, stacked along axis 0 to make it.
Pieces = list[tuple[str, tuple[int, ...]]]


class RMSNorm(nn.Module):
    """RMSNorm, or the residual add and RMSNorm in one when a residual is given."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, residual [T, hidden] -> (normed, new residual), both [T, hidden]."""
        if residual is None:
            return kernels.rms_norm(x, self.weight, self.eps), x
        return kernels.skip_rms_norm(x, residual, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention over the paged cache, with q, k and v from one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.q_size + 2 * config.kv_size
        self.qkv_proj = Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.o_proj = Linear(config.q_size, config.hidden_size, bias=config.o_bias)

    def heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """qkv [T, q_size + 2 kv_size] -> q [T, Hq, D], k and v [T, Hkv, D], views of it."""
        c = self.config
        q, k, v = qkv.split([c.q_size, c.kv_size, c.kv_size], dim=-1)
        return (
            q.view(-1, c.num_heads, c.head_dim),
            k.view(-1, c.num_kv_heads, c.head_dim),
            v.view(-1, c.num_kv_heads, c.head_dim),
        )

    def head_norms(self) -> dict[str, Any]:
        """The norms of each head of q and k, as ``rope_write_kv`` takes them: here none."""
        return {}

    def forward(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """x [T, hidden]; cache [2, blocks, block_size, Hkv, D], this layer's keys and values."""
        return self.o_proj(self.attend(self.qkv_proj(x), rotary, cache, batch))

    def forward_few(
        self,
        x: torch.Tensor,
        norm: RMSNorm,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """x [n, hidden] -> x + attention of the normed x."""
        qkv = self.qkv_proj.forward_few(x, norm=norm.weight, eps=norm.eps)
        return self.o_proj.forward_few(self.attend(qkv, rotary, cache, batch), residual=x)

    def attend(
        self,
        qkv: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """qkv [T, q_size + 2 kv_size] -> [T, q_size]; the new keys and values go to the cache."""
        q, k, v = self.heads(qkv)
        k_cache, v_cache = cache
        q = kernels.rope_write_kv(
            q, k, v, *rotary, k_cache, v_cache, batch.slots, **self.head_norms()
        )
        attend = kernels.flash_decoding if batch.is_decode else kernels.flash_attention_varlen
        return attend(q, k_cache, v_cache, batch).flatten(1)


class MLP(nn.Module):
    """SwiGLU feed-forward, with gate and up from one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = Linear(hidden, 2 * inner, bias=bias)
        self.down_proj = Linear(inner, hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, hidden] -> [T, hidden]."""
        return self.down_proj(kernels.swiglu(self.gate_up_proj(x)))

    def forward_few(self, x: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """x [n, hidden] -> x + feed-forward of the normed x."""
        gated = self.gate_up_proj.forward_few(x, norm=norm.weight, eps=norm.eps, swiglu=True)
        return self.down_proj.forward_few(gated, residual=x)


class DecoderLayer(nn.Module):
    """Norm, attention, norm, feed-forward; the adds live in the norms."""

    def __init__(self, config: ModelConfig, attention: type[Attention]) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: torch.Tensor,
        batch: AttentionBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden, residual) -> (what this layer adds last, residual before that add)."""
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden, rotary, cache, batch)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual

    def forward_few(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """x [n, hidden] -> [n, hidden]: norms and adds are done by the linear layers on the way."""
        x = self.self_attn.forward_few(x, self.input_layernorm, rotary, cache, batch)
        return self.mlp.forward_few(x, self.post_attention_layernorm)


class Decoder(nn.Module):
    """Token ids to hidden states to logits; parameters are made empty, for the loader to fill.

    A family is a subclass: it reads its own ``config.json`` and may have its own attention.
    """

    attention: type[Attention] = Attention

    @classmethod
    def read_config(cls, reader: ConfigReader) -> ModelConfig:
        """The config of this family's checkpoints; ConfigError for what is not supported."""
        raise NotImplementedError

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Parameter(
            torch.empty(config.vocab_size, config.hidden_size), requires_grad=False
        )
        self.layers = nn.ModuleList(
            DecoderLayer(config, self.attention) for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.frequencies = inverse_frequencies(config).to(self.embed_tokens.device)

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        cache: torch.Tensor,
        batch: AttentionBatch,
        features: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Hidden states [T, hidden] of one packed step, normed, ready for ``logits``.

        token_ids, positions: int64 [T].  cache: [layers, 2, blocks, block_size, Hkv, D]; the step's
        keys and values are written into it.  features: rows int64 [n] of the step that stand for
        parts of a picture, and what their embeddings are replaced by, [n, hidden].
        """
        hidden, residual = F.embedding(token_ids, self.embed_tokens), None
        if features is not None:
            hidden[features[0]] = features[1]
        rotary = rotary_tables(positions, self.frequencies)
        if not token_ids.is_cuda:  # torch's rope is quicker in one dtype; Triton's takes either
            rotary = (rotary[0].to(hidden.dtype), rotary[1].to(hidden.dtype))
        layers, few = cast(Iterable[DecoderLayer], self.layers), are_few(hidden)
        for layer, layer_cache in zip(layers, cache, strict=True):
            if few:
                hidden = layer.forward_few(hidden, rotary, layer_cache, batch)
            else:
                hidden, residual = layer(hidden, residual, rotary, layer_cache, batch)
        return self.norm(hidden, residual)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, vocab] from hidden [n, hidden], in its dtype; call it on rows that need it only."""
        if self.lm_head is None:
            return linear(hidden, self.embed_tokens)
        return self.lm_head(hidden)

    def checkpoint_layout(self) -> dict[str, Pieces]:
        """For each parameter, the checkpoint tensors that make it, in Hugging Face's names."""
        return {name: self._pieces(name, p.shape) for name, p in self.named_parameters()}

    def ignored_checkpoint_names(self) -> list[str | re.Pattern[str]]:
        """Tensors that may be in a checkpoint and are not needed: derived or tied ones."""
        derived = re.compile(r".*\.rotary_emb\.inv_freq")
        return [derived] if self.lm_head is not None else [derived, "lm_head.weight"]

    def checkpoint_name(self, name: str) -> str:
        """Decoders' checkpoints have one spelling."""
        return name

    def _pieces(self, name: str, shape: torch.Size) -> Pieces:
        c = self.config
        if name == "embed_tokens":
            return [("model.embed_tokens.weight", tuple(shape))]
        if name.startswith("lm_head"):
            return [(name, tuple(shape))]
        fused = {
            "qkv_proj": [("q_proj", c.q_size), ("k_proj", c.kv_size), ("v_proj", c.kv_size)],
            "gate_up_proj": [(part, c.intermediate_size) for part in ("gate_proj", "up_proj")],
        }
        return fused_pieces(f"model.{name}", shape, fused)


def fused_pieces(
    name: str, shape: torch.Size, fused: Mapping[str, Sequence[tuple[str, int]]]
) -> Pieces:
    """The checkpoint tensors of a parameter: one, or those that its module's name stands for.

    fused: for the name of a fused module, the names of its parts and the rows of each.
    """
    for module, parts in fused.items():
        if f".{module}." in name:
            rest = tuple(shape[1:])
            return [(name.replace(module, part), (rows, *rest)) for part, rows in parts]
    return [(name, tuple(shape))]
