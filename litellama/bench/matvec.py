"""The linear layers of decoding at batch 1: one row times a matrix, limited by reading the matrix.

Beside cuBLAS (``F.linear``) stands what torch.compile makes of the same line when it may tune its
kernels, as gpt-fast lets it: a Triton kernel instead of a call of cuBLAS.
"""

from collections.abc import Iterator

import torch.nn.functional as F

from litellama.bench.case import Case, Peer, normal, ours

# name -> layer -> (inputs K, outputs N): weights are [N, K]
LAYERS = {
    "Llama-3.2-1B": {
        "qkv": (2048, 3072),
        "o": (2048, 2048),
        "gate_up": (2048, 16384),
        "down": (8192, 2048),
        "lm_head": (2048, 128256),
    },
    "Llama-3.2-3B": {
        "qkv": (3072, 5120),
        "o": (3072, 3072),
        "gate_up": (3072, 16384),
        "down": (8192, 3072),
        "lm_head": (3072, 128256),
    },
}


def cases() -> Iterator[Case]:
    """Every linear layer of the two models."""
    for model, layers in LAYERS.items():
        for layer, (K, N) in layers.items():
            yield matvec_case(f"{model} {layer} {N}×{K}", K, N)


def matvec_case(label: str, K: int, N: int) -> Case:
    """x [1, K] times the transposed weight [N, K]."""
    return Case(
        group="linear, one row",
        kernel="matvec",
        label=label,
        make=lambda device: normal(device, (1, K), (N, K)),
        elements=lambda t: t[1].numel(),
        peers=(
            Peer("litellama", ours("matvec")),
            Peer("cuBLAS", F.linear),
            Peer("torch.compile", F.linear, compile={"coordinate_descent_tuning": True}),
        ),
        writes=False,
    )
