"""Proofs of lesson 01's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


@triton.jit
def _mul_two_blocks(a_ptr, b_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Each program owns two blocks, and asks for `offsets` with its own arithmetic."""
    for half in tl.static_range(2):
        block = 2 * tl.program_id(0) + half
        offsets = block * BLOCK + tl.arange(0, BLOCK)
        left = tl.load(a_ptr + offsets, mask=offsets < n, other=0.0).to(tl.float32)
        right = tl.load(b_ptr + offsets, mask=offsets < n, other=0.0).to(tl.float32)
        tl.store(out_ptr + offsets, left * right, mask=offsets < n)


def mul_two_blocks(a, b):
    out = torch.zeros_like(a)
    _mul_two_blocks[(triton.cdiv(a.numel(), 512),)](a, b, out, a.numel(), BLOCK=256)
    return out


@triton.jit
def _relu_where(a_ptr, b_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i, i < n, other=0)
    b = tl.load(b_ptr + i, i < n, other=0)
    tl.store(out_ptr + i, tl.where(a > 0, a * b, 0.0), i < n)


def relu_where(a, b):
    out = a.new_empty(a.shape)
    _relu_where[(triton.cdiv(a.numel(), 64),)](a, b, out, a.numel(), BLOCK=64)
    return out


@triton.jit
def _mul_tiles(a_ptr, b_ptr, out_ptr, sa, sb, so, M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (rows < M) & (columns < N)
    a = tl.load(a_ptr + rows * sa + columns, mask=inside)
    b = tl.load(b_ptr + rows * sb + columns, mask=inside)
    tl.store(out_ptr + rows * so + columns, a * b, mask=inside)


def mul_tiles(a, b):
    (M, N), out = a.shape, torch.empty(a.shape, dtype=a.dtype, device=a.device)
    grid = (triton.cdiv(M, 4), triton.cdiv(N, 32))
    strides = a.stride(0), b.stride(0), out.stride(0)
    _mul_tiles[grid](a, b, out, *strides, M, N, ROWS=4, COLUMNS=32)
    return out


def cost_by_counting(n, block, element_size):
    starts = range(0, n, block)
    idle = sum(max(0, start + block - n) for start in starts)
    return len(starts), idle, n * element_size * 2 + n * element_size


_MUL_LOAD_A = "a = tl.load(a_ptr + offsets, mask=inside)"

PROOFS = {
    "mul": Proof(
        wrong=(
            wrong("adds", "adds instead of multiplying", ("a * b, mask", "a + b, mask")),
            wrong(
                "loads a twice", "squares the first input", ("b_ptr + offsets", "a_ptr + offsets")
            ),
            wrong("loads b twice", "squares the second input", ("a_ptr + off", "b_ptr + off")),
            wrong("stores a", "copies an input", ("a * b, mask", "a, mask")),
            wrong(
                "no mask on a load",
                "load out of bounds",
                (_MUL_LOAD_A, "a = tl.load(a_ptr + offsets)"),
            ),
            wrong("no mask on the store", "store out of bounds", ("a * b, mask=inside", "a * b")),
            wrong(
                "mask against BLOCK",
                "load out of bounds",
                ("inside = offsets < n", "inside = tl.arange(0, BLOCK) < BLOCK"),
            ),
            wrong("mask one too far", "load out of bounds", ("offsets < n", "offsets <= n")),
            wrong("mask one short", "partly written", ("offsets < n", "offsets < n - 1")),
            wrong("grid rounds down", "partly written", ("triton.cdiv(n, BLOCK)", "n // BLOCK")),
            wrong(
                "program id forgotten",
                "partly written",
                ("start + tl.arange", "0 * start + tl.arange"),
            ),
            wrong("pid not times BLOCK", "partly written", (".to(tl.int64) * BLOCK", "")),
            wrong(
                "bytes for elements",
                "out of bounds",
                ("offsets = start +", "offsets = 4000000 * start +"),
                ("offsets < n", "offsets >= 0"),
            ),
            wrong("arange of n", "raised", ("tl.arange(0, BLOCK)", "tl.arange(0, n)")),
            wrong("wrong name", "raised", ("offsets < n", "offset < n")),
            wrong("forgets return", "returned None", ("    return out", "")),
            wrong("writes into a", "modified its inputs", ("torch.empty_like(a)", "a")),
            wrong(
                "float64 output",
                "wrong dtype",
                ("empty_like(a)", "empty_like(a, dtype=torch.float64)"),
            ),
            wrong("flat output", "wrong shape", ("return out", "return out.flatten()")),
        ),
        right=(mul_two_blocks, torch.mul),
    ),
    "relu_mul": Proof(
        wrong=(
            wrong(
                "gates the product",
                "relu of the product",
                ("tl.maximum(a, 0.0)", "a"),
                ("gate * b", "tl.maximum(gate * b, 0.0)"),
            ),
            wrong(
                "gates b",
                "relu of the wrong input",
                ("tl.maximum(a, 0.0)", "tl.maximum(b, 0.0)"),
                ("gate * b", "gate * a"),
            ),
            wrong(
                "gates both",
                "relu of both inputs",
                ("gate * b", "gate * tl.where(b > 0, b, 0.0)"),
            ),
            wrong("no relu", "relu forgotten", ("gate * b", "a * b")),
            wrong("only the relu", "multiplication forgotten", ("gate * b", "gate")),
            wrong("abs", "absolute value", ("tl.maximum(a, 0.0)", "tl.abs(a)")),
            wrong(
                "branches of where exchanged",
                "minimum for maximum",
                ("tl.maximum(a, 0.0)", "tl.where(a > 0, 0.0, a)"),
            ),
            wrong("doubles", "constant factor", ("gate * b", "gate * b * 2")),
            wrong("negates", "constant factor", ("gate * b", "-(gate * b)")),
            wrong(
                "mask of the wrong size", "load out of bounds", ("offsets < n", "offsets < BLOCK")
            ),
            wrong(
                "no grid",
                "raised",
                ("relu_mul_kernel[(triton.cdiv(n, BLOCK),)](", "relu_mul_kernel("),
            ),
            wrong(
                "kernel not started",
                "nothing written",
                (
                    "    relu_mul_kernel[(triton.cdiv(n, BLOCK),)](a, b, out, n, BLOCK=BLOCK)",
                    "    pass",
                ),
            ),
            wrong(
                "zeros, not started",
                "all zero",
                (
                    "    relu_mul_kernel[(triton.cdiv(n, BLOCK),)](a, b, out, n, BLOCK=BLOCK)",
                    "    pass",
                ),
                ("empty_like", "zeros_like"),
            ),
        ),
        right=(relu_where, lambda a, b: a.clamp_min(0) * b),
    ),
    "mul_rows": Proof(
        wrong=(
            wrong(
                "a's stride for b",
                "row stride of a used for b",
                ("row * b_row_stride", "row * a_row_stride"),
            ),
            wrong(
                "b's stride for a",
                "row stride of b used for a",
                ("row * a_row_stride", "row * b_row_stride"),
            ),
            wrong(
                "row 0 for all",
                "every program reads the first row",
                ("row * a_row_stride", "0"),
                ("row * b_row_stride", "0"),
            ),
            wrong("adds", "adds instead of multiplying", ("a * b, mask", "a + b, mask")),
            wrong(
                "rows taken to be packed",
                "strides ignored",
                ("row * a_row_stride", "row * N"),
                ("row * b_row_stride", "row * N"),
            ),
            wrong("no mask on the store", "store out of bounds", ("a * b, mask=inside", "a * b")),
            wrong("one row only", "partly written", ("[(M,)](", "[(1,)](")),
            wrong(
                "columns by rows",
                "transposed",
                ("row * out_row_stride + columns, a", "row + columns * tl.num_programs(0), a"),
            ),
            wrong("arguments left out", "raised", ("out.stride(0), N, BLOCK", "N, BLOCK")),
        ),
        right=(mul_tiles,),
    ),
    "mul_cost": Proof(
        wrong=(
            wrong("floor", "programs rounded down", ("triton.cdiv(n, block)", "n // block")),
            wrong("plus one", "one program too many", ("triton.cdiv(n, block)", "n // block + 1")),
            wrong("two arrays", "store not counted", ("3 * n", "2 * n")),
            wrong("elements", "elements for bytes", (" * n * element_size", " * n")),
            wrong(
                "all lanes move",
                "masked lanes counted as traffic",
                ("3 * n *", "3 * programs * block *"),
            ),
            wrong(
                "lanes in use",
                "lanes of the last block in use",
                ("programs * block - n", "n % block"),
            ),
            wrong(
                "not returned",
                "returned None",
                ("    return programs, masked_lanes, bytes_moved", ""),
            ),
            wrong(
                "one number",
                "wrong number of results",
                ("return programs, masked_lanes, bytes_moved", "return bytes_moved"),
            ),
            wrong("words", "wrong type", ("return programs", "return str(programs)")),
        ),
        right=(cost_by_counting,),
    ),
}
