"""SwiGLU's elementwise half: out = silu(gate) * up, with silu(z) = z / (1 + exp(-z)).

Shapes: ``gate_up`` is [tokens, 2 I], the gate in columns 0..I-1 and the up projection in
I..2I-1, as one fused matrix product writes them; the result is [tokens, I].  Bytes: read 2 I, write
I elements a token; as separate silu and multiply it is 5 I.  Source: Shazeer, "GLU Variants Improve
Transformer", 2020, arXiv:2002.05202.  Lesson 05 builds this file.
"""

import torch

from litellama.kernels.backend import check_tensors, launch, require, tl, triton, uses_triton


def swiglu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """What the kernel must compute, in plain torch."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)


@triton.jit
def swiglu_kernel(gate_up_ptr, out_ptr, row_stride, I, BLOCK: tl.constexpr):
    # Programs that run together take neighbouring blocks of one row, not a column of blocks.
    blocks = tl.cdiv(I, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = columns < I
    gate_ptrs = gate_up_ptr + row * row_stride + columns
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_ptrs + I, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * I + columns, gate * tl.sigmoid(gate) * up, mask=inside)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of a fused [tokens, 2 I] tensor: [tokens, I], same dtype."""
    require(
        gate_up.ndim == 2 and gate_up.shape[1] % 2 == 0,
        lambda: f"gate_up must be [tokens, 2 * intermediate], got {tuple(gate_up.shape)}",
    )
    if not uses_triton(gate_up):
        return swiglu_reference(gate_up)
    check_tensors(gate_up=gate_up)
    if gate_up.stride(1) != 1:
        gate_up = gate_up.contiguous()
    tokens, I = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(tokens, I, dtype=gate_up.dtype, device=gate_up.device)
    BLOCK = 1024
    grid = (tokens * triton.cdiv(I, BLOCK),)
    launch(swiglu_kernel, grid, gate_up, out, gate_up.stride(0), I, BLOCK=BLOCK)
    return out
