"""Exercises of lesson 06: tiles and what they read, matmul, and matvec with SwiGLU on the way."""

import torch
import torch.nn.functional as F

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "06_matmul"


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T in float32 (float64 if they are)."""
    return _wide(x) @ _wide(weight).T


def _as_k_by_n(weight: torch.Tensor) -> torch.Tensor:
    """The weight's numbers read as if its rows were columns: [K, N] in place of [N, K]."""
    return weight.reshape(weight.shape[1], weight.shape[0])


# --- tile_traffic --------------------------------------------------------------------------------


def tile_traffic(T: int, N: int, K: int, BLOCK_T: int, BLOCK_N: int) -> tuple[int, int]:
    return -(-N // BLOCK_N) * T * K, -(-T // BLOCK_T) * N * K


def _tiles(label: str, T: int, N: int, K: int, BLOCK_T: int, BLOCK_N: int) -> Case:
    return Case(label, lambda m: (T, N, K, BLOCK_T, BLOCK_N))


TILE_TRAFFIC = Exercise(
    name="tile_traffic",
    lesson=LESSON,
    title="What tiles read",
    difficulty=2,
    minutes=15,
    reference=tile_traffic,
    outputs=("x_reads", "weight_reads"),
    cases=(
        _tiles("6 × 4 results, tiles of 2 × 4", 6, 4, 10, 2, 4),
        _tiles("512 tokens, gate and up of SmolLM2", 512, 3072, 576, 64, 128),
        _tiles("sizes that tiles do not divide", 100, 70, 30, 64, 16),
        _tiles("one token", 1, 960, 576, 16, 64),
    ),
    mistakes=(
        Mistake(
            "no tiles",
            lambda T, N, K, BLOCK_T, BLOCK_N: (T * N * K, T * N * K),
            "every result reads a row of x and a row of W of its own. The results of a tile share "
            "them.",
        ),
        Mistake(
            "everything once",
            lambda T, N, K, BLOCK_T, BLOCK_N: (T * K, N * K),
            "every number is read once. That is so only if one tile covers everything: each tile "
            "reads its rows again.",
        ),
        Mistake(
            "blocks exchanged",
            lambda T, N, K, BLOCK_T, BLOCK_N: (-(-T // BLOCK_T) * T * K, -(-N // BLOCK_N) * N * K),
            "x is read once for each block of tokens. A row of x belongs to one block of tokens "
            "only; it is read again for each block of *outputs*.",
        ),
        Mistake(
            "whole tiles only",
            lambda T, N, K, BLOCK_T, BLOCK_N: (N // BLOCK_N * T * K, T // BLOCK_T * N * K),
            "the last tiles, which are not full, are left out: divide and round up.",
        ),
        Mistake(
            "masked lanes read",
            lambda T, N, K, BLOCK_T, BLOCK_N: (
                -(-N // BLOCK_N) * -(-T // BLOCK_T) * BLOCK_T * K,
                -(-T // BLOCK_T) * -(-N // BLOCK_N) * BLOCK_N * K,
            ),
            "masked lanes are counted. What a mask shuts out is not read.",
        ),
        Mistake(
            "results exchanged",
            lambda *sizes: tile_traffic(*sizes)[::-1],
            "the two numbers are exchanged: first what is read of x, then what is read of W.",
        ),
        Mistake(
            "part of a block",
            lambda T, N, K, BLOCK_T, BLOCK_N: (T * K * N // BLOCK_N, N * K * T // BLOCK_T),
            "the number of blocks is a fraction: 70 outputs in blocks of 16 are five blocks, not "
            "4.375. Round N / BLOCK_N and T / BLOCK_T up before you multiply.",
        ),
    ),
    hints=(
        "Draw T × N results and cut them into tiles. Which tiles need row 0 of x?",
        "All tiles of one row of tiles need it: as many as there are blocks of outputs.",
        "The number of blocks of outputs is N / BLOCK_N, rounded up: -(-N // BLOCK_N).",
        "x_reads is that times T * K. weight_reads is the same with T and N exchanged.",
    ),
)


# --- matmul --------------------------------------------------------------------------------------

STEP = 32  # BLOCK_K of the launcher that is given


def matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _product(x, weight).to(x.dtype)


def _matrices(T: int, K: int, N: int, half: bool = False, mean: float = 0.0):
    """x [T, K] and weight [N, K]."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        x = m.normal(T, K, dtype=dtype, mean=mean)
        return x, m.normal(N, K, dtype=dtype, mean=mean)

    return make


def _added_twice(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """total += tl.dot(x, w, total): the sum so far counts twice in each step."""
    total = torch.zeros(len(x), len(weight), dtype=_wide(x).dtype, device=x.device)
    for start in range(0, x.shape[1], STEP):
        part = slice(start, start + STEP)
        total = 2 * total + _product(x[:, part], weight[:, part])
    return total.to(x.dtype)


def _of_columns(choose):
    """The product over some of the columns; choose(K) gives their slice."""

    def mistaken(x, weight):
        part = choose(x.shape[1])
        return _product(x[:, part], weight[:, part]).to(x.dtype)

    return mistaken


MATMUL = Exercise(
    name="matmul",
    lesson=LESSON,
    title="A product in tiles",
    difficulty=4,
    minutes=30,
    reference=matmul,
    cases=(
        Case("whole tiles", _matrices(32, 64, 64)),
        Case("one step along K", _matrices(16, 32, 32)),
        Case("nothing is a multiple of anything", _matrices(19, 70, 45), ragged=True),
        Case("one token", _matrices(1, 100, 40), ragged=True),
        Case("smaller than a tile", _matrices(5, 7, 9), ragged=True),
        Case("float16", _matrices(17, 90, 33, half=True), ragged=True),
        Case("float16, long sums", _matrices(3, 1000, 10, half=True, mean=1.0), ragged=True),
    ),
    mistakes=(
        Mistake(
            "weight read as [K, N]",
            lambda x, weight: (_wide(x) @ _wide(_as_k_by_n(weight))).to(x.dtype),
            "the weight is read as [K, N]. It is [N, K]: number k of output n is at n * K + k.",
        ),
        Mistake(
            "last step only",
            _of_columns(lambda K: slice((K - 1) // STEP * STEP, K)),
            "only the last step along K is kept: each step overwrites the sums. Give them to "
            "tl.dot, or add to them.",
        ),
        Mistake(
            "first step only",
            _of_columns(lambda K: slice(0, STEP)),
            "only the first BLOCK_K numbers of each row are used: the loop goes on to K.",
        ),
        Mistake(
            "whole steps only",
            _of_columns(lambda K: slice(0, K // STEP * STEP)),
            "the last numbers of K are left out where BLOCK_K does not divide it: the loop must "
            "make a last, masked step.",
        ),
        Mistake(
            "sums added twice",
            _added_twice,
            "the sums so far are added twice: tl.dot(a, b, total) already contains total, so "
            "write total = and not total +=.",
        ),
        Mistake(
            "first step again",
            lambda x, weight: (_product(x[:, :STEP], weight[:, :STEP]) * -(-x.shape[1] // STEP)).to(
                x.dtype
            ),
            "every step reads the first block of K again: the columns are start + 0, 1, 2 ...",
        ),
    ),
    hints=(
        "Program (i, j) owns rows i * BLOCK_T and on, and outputs j * BLOCK_N and on. What does "
        "the step that begins at column `start` need of x and of W?",
        "rows[:, None] * K + ks[None, :] are the places of x's block, [BLOCK_T, BLOCK_K]. For Wᵀ, "
        "[BLOCK_K, BLOCK_N], the place of number k of output n is n * K + k.",
        "Each load needs two masks, joined with &: rows (or outputs) inside, and ks < K, with "
        "other=0.0.",
        'total = tl.dot(x, w, total, input_precision="ieee") in the loop, and after it tl.store '
        "at rows[:, None] * N + outputs[None, :].",
    ),
)


# --- matvec --------------------------------------------------------------------------------------

ROWS = 4  # BLOCK_N of the launcher that is given


def matvec(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return matmul(x, weight)


def _few_rows(T: int, K: int, N: int, half: bool = False, cut: int = 0):
    """x [T, K] and weight [N, K]; with ``cut`` both are columns of wider matrices."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        x, weight = (m.normal(n, K + 2 * cut, dtype=dtype) for n in (T, N))
        return x[:, cut : cut + K], weight[:, cut : cut + K]

    return make


def _cancelling(m: Maker):
    """Whole numbers whose products pass the end of float16, and whose sums are small and exact."""
    x = m.normal(2, 20, scale=200.0, dtype=m.half).round()
    weight = m.normal(12, 20, scale=200.0, dtype=m.half).round()
    few = (m.normal(12, 2, scale=2.0) + 3).round().to(m.half)
    x[:, :2], weight[:, :2] = 1.0, few
    x, weight = torch.cat([x, x], 1), torch.cat([weight, -weight], 1)
    x[0, 0], x[1, 1] = 3.0, 2.0
    return x, weight


_FEW = (
    Case("one token", _few_rows(1, 64, 32)),
    Case("SmolLM2's width, 576", _few_rows(1, 576, 24), ragged=True),
    Case("three tokens, odd sizes", _few_rows(3, 37, 18), ragged=True),
    Case("slices of wider matrices", _few_rows(2, 45, 22, cut=8), ragged=True),
    Case("two outputs", _few_rows(2, 5, 2), ragged=True),
    Case("float16", _few_rows(2, 300, 26, half=True), ragged=True),
    Case("float16, large products that cancel", _cancelling, ragged=True),
)


def _first_rows_again(x, weight):
    return matvec(x, weight)[:, torch.arange(len(weight), device=x.device) % ROWS]


MATVEC = Exercise(
    name="matvec",
    lesson=LESSON,
    title="The product of one token",
    difficulty=3,
    minutes=20,
    reference=matvec,
    cases=_FEW,
    mistakes=(
        Mistake(
            "weight read as [K, N]",
            lambda x, weight: matvec(x, _as_k_by_n(weight).T),
            "the weight is read as [K, N]. A program owns rows of W, [N, K]: number k of row n is "
            "at n * weight_stride + k.",
        ),
        Mistake(
            "first token for all",
            lambda x, weight: matvec(x[:1].expand_as(x), weight),
            "every token gets the result of the first: x of token t begins t * x_stride further.",
        ),
        Mistake(
            "first rows again",
            _first_rows_again,
            "every program reads the rows of program 0: rows begin at tl.program_id(0) * BLOCK_N.",
        ),
        Mistake(
            "mean for sum",
            lambda x, weight: (_product(x, weight) / x.shape[1]).to(x.dtype),
            "the sum is divided by K. A dot product is a sum, no mean.",
        ),
        Mistake(
            "x forgotten",
            lambda x, weight: _wide(weight).sum(1).expand(len(x), -1).to(x.dtype),
            "these are the sums of W's rows: they are not multiplied by x.",
        ),
    ),
    hints=(
        "rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N) are this program's rows of W, "
        "and columns all K numbers of each.",
        "weight_ptr + rows[:, None] * weight_stride + columns[None, :] points to a block "
        "[BLOCK_N, BLOCK_K]. Load it before the loop over tokens.",
        "In the loop: load x of this token, [BLOCK_K]; weights * x[None, :] multiplies every row.",
        "y = tl.sum(weights * x[None, :], axis=1), stored at out_ptr + token * N + rows.",
    ),
)


# --- matvec_swiglu -------------------------------------------------------------------------------


def _gated(function):
    """function(gate, up) of the two halves of x W^T, rounded once."""

    def compute(x, weight):
        gate, up = _product(x, weight).chunk(2, dim=-1)
        return function(gate, up).to(x.dtype)

    return compute


def matvec_swiglu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _gated(lambda gate, up: F.silu(gate) * up)(x, weight)


def _rows_in_turns(x, weight):
    y = _product(x, weight)
    return (F.silu(y[:, 0::2]) * y[:, 1::2]).to(x.dtype)


def _next_rows(x, weight):
    """Up from the row after the gate's."""
    y = _product(x, weight)
    I = y.shape[1] // 2
    return (F.silu(y[:, :I]) * y[:, 1 : I + 1]).to(x.dtype)


MATVEC_SWIGLU = Exercise(
    name="matvec_swiglu",
    lesson=LESSON,
    title="SwiGLU on the way",
    difficulty=4,
    minutes=25,
    reference=matvec_swiglu,
    cases=_FEW,
    mistakes=(
        Mistake(
            "gate and up exchanged",
            _gated(lambda gate, up: F.silu(up) * gate),
            "gate and up are exchanged: the first I rows of W are the gate's.",
        ),
        Mistake(
            "up forgotten",
            _gated(lambda gate, up: F.silu(gate)),
            "the result is silu(gate): it is not yet multiplied with up.",
        ),
        Mistake(
            "gate for up",
            _gated(lambda gate, up: F.silu(gate) * gate),
            "the gate is multiplied with itself: up's rows are I rows further down.",
        ),
        Mistake(
            "activation forgotten",
            _gated(lambda gate, up: gate * up),
            "gate and up are multiplied as they are: silu is missing.",
        ),
        Mistake(
            "sigmoid for silu",
            _gated(lambda gate, up: torch.sigmoid(gate) * up),
            "the gate is its sigmoid alone. silu(z) is z times the sigmoid of z.",
        ),
        Mistake(
            "silu of the product",
            _gated(lambda gate, up: F.silu(gate * up)),
            "silu is applied to the product. Only the gate goes through it.",
        ),
        Mistake(
            "rows in turns",
            _rows_in_turns,
            "gate and up are read in turns. All rows of the gate come first, then all of up.",
        ),
        Mistake(
            "first token for all",
            lambda x, weight: matvec_swiglu(x[:1].expand_as(x), weight),
            "every token gets the result of the first: x of token t begins t * x_stride further.",
        ),
        Mistake(
            "next row for up",
            _next_rows,
            "up is read from the row after the gate's: it is I rows further down, so "
            "I * weight_stride numbers.",
        ),
    ),
    hints=(
        "A program owns BLOCK_N of the I outputs. For each it needs two rows of W: the gate's and "
        "the one I rows further down.",
        "Load both blocks before the loop: gate_ptrs as in matvec, and the same pointers plus "
        "I * weight_stride.",
        "In the loop, two sums over the same x: gate = tl.sum(gates * x[None, :], axis=1), and up "
        "likewise.",
        "tl.store(out_ptr + token * I + rows, gate * tl.sigmoid(gate) * up, mask=rows < I)",
    ),
)

EXERCISES = (TILE_TRAFFIC, MATMUL, MATVEC, MATVEC_SWIGLU)
