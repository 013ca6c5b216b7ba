"""Compile every kernel for GPUs that need not be there: python -m tests.kernels.compile_all TARGET.

Runs the launchers on CPU tensors, with ``launch`` replaced by one that compiles the kernel for the
target in the configuration the launcher chose.  Prints a JSON list of what was compiled, with the
shared memory that each needs.  A process of its own, because Triton's choice between compiling and
interpreting is made when it is imported.
"""

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from litellama import kernels
from tests.kernels.targets import TARGETS, Target

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


def ones(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


def launch_rows(dtype: torch.dtype) -> None:
    """The kernels that take rows, each with short and long ones, so that every block is met."""
    kernels.mul(ones(dtype, 8), ones(dtype, 8))
    for width in (64, 4096, 65536):
        x, weight = ones(dtype, 1, width), ones(dtype, width)
        kernels.softmax(x)
        kernels.rms_norm(x, weight)
        kernels.skip_rms_norm(x, x, weight)
    kernels.swiglu(ones(dtype, 1, 2 * 3000))
    logits, a_row, seeds = ones(dtype, 1, 128256), torch.ones(1), torch.ones(1, dtype=torch.int64)
    kernels.penalize(logits, torch.ones(1, 128256, dtype=torch.int32), a_row, a_row, a_row)
    for filters in (True, False):
        kernels.sample(logits, a_row, seeds, a_row, a_row, seeds, seeds, filters)


def launch_linears(dtype: torch.dtype) -> None:
    """matvec as the layers of a decoder use it: plain, and with what is done on the way."""
    for K in (64, 576, 8192, 32768):
        x, weight, norm = ones(dtype, 1, K), ones(dtype, 64, K), ones(dtype, K)
        kernels.matvec(x, weight, ones(dtype, 64), norm=norm)
        kernels.matvec(x, weight, norm=norm, swiglu=True)
        kernels.matvec(x, weight, residual=ones(dtype, 1, 64))
    if dtype != torch.float32:  # of the half precisions few rows go to tensor cores
        for T, (K, N) in product((2, 17), ((576, 64), (2048, 64), (8192, 3072), (2048, 4096))):
            x, weight, norm = ones(dtype, T, K), ones(dtype, N, K), ones(dtype, K)
            kernels.matvec(x, weight, ones(dtype, N), norm=norm, swiglu=True)
            kernels.matvec(x, weight, residual=ones(dtype, T, N))


def launch_heads(dtype: torch.dtype, head_dim: int) -> None:
    """The kernels that take heads, with a group of four query heads for each of keys and values."""
    kv_heads, block_size = 8, 16
    q, k = (ones(dtype, 1, heads, head_dim) for heads in (4 * kv_heads, kv_heads))
    cache, norm = ones(dtype, 1, block_size, kv_heads, head_dim), ones(dtype, head_dim)
    place = (cache, cache.clone(), torch.zeros(1, dtype=torch.int64))
    kernels.write_kv(k, k, *place)
    for rotated in (head_dim, head_dim // 4 * 2):
        table = torch.ones(1, rotated // 2)
        kernels.rope(q, k, table, table)
        kernels.rope_write_kv(q, k, k, table, table, *place)
        kernels.rope_write_kv(q, k, k, table, table, *place, q_norm=norm, k_norm=norm)
    dense = ones(dtype, 1, kv_heads, 4096, head_dim)
    kernels.flash_attention_v1(dense, dense, dense)
    kernels.flash_attention(dense, dense, dense)
    lengths = [(1, 4096, 1), (4096, 4096, 1)]  # new tokens, keys, sequences
    if head_dim in WITH_FEW_QUERIES:
        kernels.flash_attention(dense[:, :, :1], dense, dense, causal=False)
        # Decoding of several; and with the keys in one part, so without a merge.
        lengths += [(1, 4096, 2), (1, 1, 1)]
    for new, keys, sequences in lengths:
        batch = kernels.AttentionBatch(
            query_starts=new * torch.arange(sequences + 1, dtype=torch.int32),
            seq_lens=torch.full((sequences,), keys, dtype=torch.int32),
            block_table=torch.zeros(sequences, 4096 // block_size, dtype=torch.int32),
            slots=torch.zeros(sequences * new, dtype=torch.int64),
            block_size=block_size,
            max_query_len=new,
            max_seq_len=keys,
        )
        packed = ones(dtype, sequences * new, 4 * kv_heads, head_dim)
        if batch.is_decode:
            kernels.flash_decoding(packed, cache, cache, batch)
        if sequences == 1 and (new > 1 or head_dim in WITH_FEW_QUERIES):
            kernels.flash_attention_varlen(packed, cache, cache, batch)


# Attention takes the compiler longest, so each class of tiles is met once, not in every way: the
# two half precisions take the same tiles, and 40, 80 and 96 those of the next power of two, masked.
HEAD_DIMS = {
    torch.bfloat16: (32, 40, 64, 80, 96, 128, 256),
    torch.float16: (128,),
    torch.float32: (80, 256),
}
WITH_FEW_QUERIES = (64, 128, 256)
# Heads first, because they take longest.
JOBS = [
    *((launch_heads, dtype, D) for dtype, head_dims in HEAD_DIMS.items() for D in head_dims),
    *((launch, dtype) for launch in (launch_linears, launch_rows) for dtype in HEAD_DIMS),
]


class Compiler:
    """Stands in for ``launch``: compiles for a target what it is asked to run, once each."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target
        self.record: dict[str, dict[str, object]] = {}

    def __call__(self, kernel, grid, *args, **meta) -> None:
        options = {key: meta.pop(key) for key in ("num_warps", "num_stages") if key in meta}
        given = dict(zip(kernel.arg_names, args, strict=False)) | meta
        constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
        unspecialised = {p.name for p in kernel.params if p.do_not_specialize}
        constants |= {name: None for name, value in given.items() if value is None}
        signature = {
            name: "constexpr" if name in constants else type_of(value)
            for name, value in given.items()
        }
        hints = {
            (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
            for name, value in given.items()
            if name not in {*constants, *unspecialised} and is_multiple_of_16(value)
        }
        if meta.get("OVERLAP"):
            options["launch_pdl"] = True
        name = kernel.fn.__name__
        configuration = str((name, signature, constants, hints, options))
        if configuration in self.record:
            return
        source = ASTSource(kernel, signature, constants, hints)
        compiled = triton.compile(source, target=self.target, options=options)
        self.record[configuration] = {
            "kernel": name,
            "signature": " ".join(signature.values()),
            "constants": constants,
            "options": options,
            "shared": compiled.metadata.shared,
            "waits": "griddepcontrol.wait" in compiled.asm.get("ptx", ""),
            "prefetches": "cp.async.bulk.prefetch" in compiled.asm.get("ptx", ""),
            "binary": len(compiled.asm["cubin" if self.target.backend == "cuda" else "hsaco"]),
        }


def stand_in(target: Target) -> Compiler:
    """Let the launchers choose as they would on the target, and compile in place of running."""
    amd, compiler = target.backend == "hip", Compiler(GPUTarget(*target[:3]))
    stand_ins = {
        "launch": compiler,
        "uses_triton": lambda x: True,
        "can_overlap": lambda device: not amd and int(target.architecture) >= 90,
        "shared_memory": lambda device: target.shared,
        "stages": lambda wanted: min(wanted, 2) if amd else wanted,
        "slots": lambda device: 528,
        "most_warps": lambda: 16 if amd else 32,
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("litellama.kernels."):
            for attribute in stand_ins.keys() & vars(module).keys():
                setattr(module, attribute, stand_ins[attribute])
    return compiler


def run(job: int, target_name: str) -> dict[str, dict[str, object]]:
    """Compile what one of JOBS launches; the record by configuration."""
    compiler = stand_in(TARGETS[target_name])
    function, *arguments = JOBS[job]
    function(*arguments)
    return compiler.record


def main(target_name: str) -> None:
    """Compile for one of TARGETS, in as many processes as there are cores, and print the record."""
    record: dict[str, dict[str, object]] = {}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(run, range(len(JOBS)), [target_name] * len(JOBS)):
            record |= part
    print(json.dumps(list(record.values()), default=str))  # torch dtypes as their names


if __name__ == "__main__":
    main(sys.argv[1])
