"""The kernels: one idea per file, each with its formula, a torch reference and a launcher."""

from litellama.kernels.attention_batch import AttentionBatch
from litellama.kernels.backend import use_backend
from litellama.kernels.flash_attention import flash_attention
from litellama.kernels.flash_attention_v1 import flash_attention_v1
from litellama.kernels.flash_attention_varlen import flash_attention_varlen
from litellama.kernels.flash_decoding import flash_decoding
from litellama.kernels.matvec import matvec
from litellama.kernels.mul import mul
from litellama.kernels.penalize import penalize
from litellama.kernels.rms_norm import rms_norm
from litellama.kernels.rope import rope
from litellama.kernels.rope_write_kv import rope_write_kv
from litellama.kernels.sample import sample
from litellama.kernels.skip_rms_norm import skip_rms_norm
from litellama.kernels.softmax import softmax
from litellama.kernels.swiglu import swiglu
from litellama.kernels.write_kv import write_kv

__all__ = [
    "AttentionBatch",
    "flash_attention",
    "flash_attention_v1",
    "flash_attention_varlen",
    "flash_decoding",
    "matvec",
    "mul",
    "penalize",
    "rms_norm",
    "rope",
    "rope_write_kv",
    "sample",
    "skip_rms_norm",
    "softmax",
    "swiglu",
    "use_backend",
    "write_kv",
]
