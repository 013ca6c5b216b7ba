"""The lessons by file name, and where the course lies."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

# The one list of file names; a name is known before its lesson is there.
LESSONS = {
    "00_start_here": "Start here",
    "01_first_triton_kernel": "A first Triton kernel",
    "02_softmax": "Softmax",
    "03_rmsnorm": "RMSNorm",
    "04_rope": "RoPE",
    "05_swiglu": "SwiGLU and fused linears",
    "06_matmul": "Matrix multiply",
    "07_attention": "Attention and grouped queries",
    "08_flash_attention": "FlashAttention",
    "09_flash_decoding": "FlashDecoding",
    "10_kv_cache": "The KV-cache manager",
    "11_llama": "Llama",
    "12_qwen": "Qwen2.5 and Qwen3",
    "13_llava": "LLaVA",
    "14_sampling": "Sampling and streaming",
    "15_cuda_graphs": "CUDA graphs",
    "16_continuous_batching": "Continuous batching",
    "17_how_fast": "How fast is it",
    "18_chat_demo": "The chat demo",
}


def stem(number: int) -> str:
    """``02_softmax`` for 2; a number that no lesson has is a ``KeyError``."""
    for name in LESSONS:
        if int(name[:2]) == number:
            return name
    raise KeyError(number)


def heading(name: str) -> str:
    """``02 Softmax`` for ``02_softmax``."""
    return f"{name[:2]} {LESSONS[name]}"
