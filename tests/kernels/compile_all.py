"""Compile every kernel for GPUs that need not be there: python -m tests.kernels.compile_all TARGET.

Runs the launchers on CPU tensors, with ``launch`` replaced by one that compiles the kernel for the
target in the configuration the launcher chose.  Prints a JSON list of what was compiled, with the
shared memory that each needs.  A process of its own, because Triton's choice between compiling and
interpreting is made when it is imported.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from litellama import kernels

# Name: (backend, architecture, threads in a warp).
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "gfx942": ("hip", "gfx942", 64),
    "gfx1100": ("hip", "gfx1100", 32),
}
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def type_of(value: object) -> str:
    """A launch argument's type in Triton's signature notation."""
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if abs(value) < 2**31 else "i64"


def is_multiple_of_16(value: object) -> bool:
    """What a launch tells the compiler of an argument, as a number or an address.

    Wide loads and the pipelining of loops depend on it, and so does the shared memory.
    """
    number = value.data_ptr() if isinstance(value, torch.Tensor) else value
    return isinstance(number, int) and number % 16 == 0


def run_launchers(dtype: torch.dtype) -> None:
    """Call every launcher with a short and a long row, so that each configuration is met."""

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype)

    kernels.mul(ones(8), ones(8))
    for width in (64, 4096, 65536):
        kernels.softmax(ones(1, width))
        kernels.rms_norm(ones(1, width), ones(width))
        kernels.skip_rms_norm(ones(1, width), ones(1, width), ones(width))
    kernels.swiglu(ones(1, 2 * 3000))
    for heads, kv_heads, head_dim, rotated in ((9, 3, 64, 64), (32, 8, 128, 128), (5, 1, 80, 40)):
        table = torch.ones(1, rotated // 2)
        q, k = ones(1, heads, head_dim), ones(1, kv_heads, head_dim)
        kernels.rope(q, k, table, table)
        cache = ones(2, 16, kv_heads, head_dim)
        kernels.write_kv(k, k, cache, cache.clone(), torch.zeros(1, dtype=torch.int64))
    logits, a_row, seeds = ones(1, 128256), torch.ones(1), torch.ones(1, dtype=torch.int64)
    kernels.penalize(logits, torch.ones(1, 128256, dtype=torch.int32), a_row, a_row, a_row)
    for filters in (True, False):
        kernels.sample(logits, a_row, seeds, a_row, a_row, seeds, seeds, filters)
    # The two half precisions take the same tiles: for one of them a single shape is enough.
    head_dims = (128,) if dtype == torch.float16 else (64, 128, 256)
    for head_dim in head_dims:
        run_attention(ones(1, 16, 8, head_dim))


def run_attention(cache: torch.Tensor) -> None:
    """Attention over few queries and many, and decoding with its keys in one part and in several.

    cache: [1, 16, Hkv, D], keys and values both; each has a group of four query heads.
    """
    _, block_size, kv_heads, head_dim = cache.shape
    for queries, keys in ((1, 1), (1, 4096), (4096, 4096)):
        batch = kernels.AttentionBatch(
            query_starts=torch.tensor([0, queries], dtype=torch.int32),
            seq_lens=torch.tensor([keys], dtype=torch.int32),
            block_table=torch.zeros(1, 4096 // block_size, dtype=torch.int32),
            slots=torch.zeros(queries, dtype=torch.int64),
            block_size=block_size,
            max_query_len=queries,
            max_seq_len=keys,
        )
        q = cache.new_ones(queries, 4 * kv_heads, head_dim)
        if batch.is_decode:
            kernels.flash_decoding(q, cache, cache, batch)
        kernels.flash_attention_varlen(q, cache, cache, batch)


def main(target_name: str) -> None:
    """Compile for one of TARGETS, and print the record."""
    target = GPUTarget(*TARGETS[target_name])
    record: list[dict[str, object]] = []
    seen: set[str] = set()

    def compile_launch(kernel, grid, *args, **meta) -> None:
        options = {key: meta.pop(key) for key in ("num_warps", "num_stages") if key in meta}
        given = dict(zip(kernel.arg_names, args, strict=False)) | meta
        constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
        signature = {
            name: "constexpr" if name in constants else type_of(value)
            for name, value in given.items()
        }
        hints = {
            (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
            for name, value in given.items()
            if name not in constants and is_multiple_of_16(value)
        }
        configuration = str((kernel.fn.__name__, signature, constants, hints, options))
        if configuration in seen:
            return
        seen.add(configuration)
        source = ASTSource(kernel, signature, constants, hints)
        compiled = triton.compile(source, target=target, options=options)
        record.append(
            {
                "kernel": kernel.fn.__name__,
                "signature": " ".join(signature.values()),
                "constants": constants,
                "options": options,
                "shared": compiled.metadata.shared,
                "binary": len(compiled.asm["cubin" if target.backend == "cuda" else "hsaco"]),
            }
        )

    stand_ins = {"launch": compile_launch, "uses_triton": lambda x: True}
    for name, module in list(sys.modules.items()):
        if name.startswith("litellama.kernels."):
            for attribute in stand_ins.keys() & vars(module).keys():
                setattr(module, attribute, stand_ins[attribute])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        run_launchers(dtype)
    print(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1])
