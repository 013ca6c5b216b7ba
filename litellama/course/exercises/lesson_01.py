"""Exercises of lesson 01: programs, offsets, masks, strides, and what a kernel costs."""

import torch

from litellama.course.exercise import Case, Exercise, Mistake

LESSON = "01_first_triton_kernel"


# --- mul -----------------------------------------------------------------------------------------


def mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a * b


def _two(n: int, **how: float):
    return lambda m: (m.normal(n, **how), m.normal(n, **how))


MUL = Exercise(
    name="mul",
    lesson=LESSON,
    title="Elementwise multiply",
    difficulty=1,
    minutes=10,
    reference=mul,
    cases=(
        Case("one full block", _two(1024)),
        Case("several full blocks", _two(4096)),
        Case("1,000 elements, not a whole number of blocks", _two(1000), ragged=True),
        Case("one element", _two(1), ragged=True),
        Case("a prime number of elements", _two(2503), ragged=True),
        Case("tiny numbers", _two(100, scale=1e-12), ragged=True),
        Case(
            "float16",
            lambda m: (m.normal(777, dtype=m.half), m.normal(777, dtype=m.half)),
            ragged=True,
        ),
        Case("two axes", lambda m: (m.normal(33, 65), m.normal(33, 65)), ragged=True),
    ),
    mistakes=(
        Mistake(
            "adds instead of multiplying",
            lambda a, b: a + b,
            "the two are added. Here out[i] = a[i] * b[i].",
        ),
        Mistake(
            "squares the first input",
            lambda a, b: a * a,
            "`a` is multiplied with itself: the second load reads from a_ptr too.",
        ),
        Mistake(
            "squares the second input",
            lambda a, b: b * b,
            "`b` is multiplied with itself: the first load reads from b_ptr too.",
        ),
        Mistake(
            "copies an input",
            lambda a, b: a.clone(),
            "the kernel stores `a` unchanged: the product never reaches tl.store.",
        ),
    ),
    hints=(
        "A program knows only its number, tl.program_id(0). Which elements are the ones of program "
        "0? Of program 1? Write down the first index of each.",
        "Program `pid` owns BLOCK neighbouring elements: offsets = pid * BLOCK + "
        "tl.arange(0, BLOCK). That is a vector of BLOCK indices, all worked on at once.",
        "The last program may own indices that are not there. inside = offsets < n says which "
        "are; both loads and the store take mask=inside.",
        "a = tl.load(a_ptr + offsets, mask=inside), the same for b, and then "
        "tl.store(out_ptr + offsets, a * b, mask=inside). The grid has triton.cdiv(n, BLOCK) "
        "programs.",
    ),
)


# --- relu_mul ------------------------------------------------------------------------------------


def relu_mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.relu(a) * b


RELU_MUL = Exercise(
    name="relu_mul",
    lesson=LESSON,
    title="Two operations, one pass over memory",
    difficulty=2,
    minutes=10,
    reference=relu_mul,
    cases=(
        Case("full blocks", _two(2048)),
        Case("1,000 elements, not a whole number of blocks", _two(1000), ragged=True),
        Case("one element", _two(1, mean=3.0), ragged=True),
        Case(
            "every gate closed",
            lambda m: (m.normal(300).abs().neg(), m.normal(300)),
            ragged=True,
        ),
        Case(
            "float16",
            lambda m: (m.normal(519, dtype=m.half), m.normal(519, dtype=m.half)),
            ragged=True,
        ),
    ),
    mistakes=(
        Mistake(
            "relu of the product",
            lambda a, b: torch.relu(a * b),
            "the ReLU is applied to the product. Only `a` goes through it: max(a, 0) * b, so "
            "that a negative `b` keeps its sign.",
        ),
        Mistake(
            "relu of the wrong input",
            lambda a, b: a * torch.relu(b),
            "the ReLU is on `b`. It belongs on `a`: max(a, 0) * b.",
        ),
        Mistake(
            "relu of both inputs",
            lambda a, b: torch.relu(a) * torch.relu(b),
            "the ReLU is on both inputs. Only `a` goes through it: max(a, 0) * b.",
        ),
        Mistake(
            "relu forgotten",
            lambda a, b: a * b,
            "the ReLU is missing: where a[i] is negative, out[i] is 0.",
        ),
        Mistake(
            "multiplication forgotten",
            lambda a, b: torch.relu(a),
            "the result is max(a, 0) alone: it is not yet multiplied with `b`.",
        ),
        Mistake(
            "absolute value",
            lambda a, b: a.abs() * b,
            "the absolute value of `a` is taken. A ReLU makes negative numbers 0, not positive.",
        ),
        Mistake(
            "minimum for maximum",
            lambda a, b: a.clamp_max(0) * b,
            "the minimum of `a` and 0 is taken, or the branches of tl.where are exchanged: ReLU "
            "keeps the positive numbers.",
        ),
    ),
    hints=(
        "Start from a multiply kernel: programs, offsets, mask, two loads. Nothing there changes. "
        "What comes between the loads and the store?",
        "Everything between a load and a store happens in registers and costs no memory traffic. "
        "tl.maximum(a, 0.0) is the ReLU of a block; tl.where(a > 0, a, 0.0) is another way.",
        "tl.store(out_ptr + offsets, tl.maximum(a, 0.0) * b, mask=inside)",
    ),
)


# --- mul_rows ------------------------------------------------------------------------------------


def mul_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a * b


def _slices(rows: int, columns: int, wide_a: int, wide_b: int):
    """Column slices of two wider matrices, so that each has a row stride of its own."""
    return lambda m: (
        m.normal(rows, wide_a)[:, 3 : 3 + columns],
        m.normal(rows, wide_b)[:, 1 : 1 + columns],
    )


def _as_if_packed(x: torch.Tensor, row_stride: int) -> torch.Tensor:
    """Read x with a wrong row stride (what lies outside is read as NaN, and matches nothing)."""
    rows, columns = x.shape
    starts = torch.arange(rows, device=x.device).mul(row_stride).add(x.storage_offset())
    index = starts[:, None].add(torch.arange(columns, device=x.device))
    flat = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    return flat[index.clamp_max(flat.numel() - 1)]


MUL_ROWS = Exercise(
    name="mul_rows",
    lesson=LESSON,
    title="Two axes, with strides",
    difficulty=3,
    minutes=20,
    reference=mul_rows,
    cases=(
        Case("contiguous", lambda m: (m.normal(8, 64), m.normal(8, 64))),
        Case("contiguous, 50 columns", lambda m: (m.normal(5, 50), m.normal(5, 50)), ragged=True),
        Case("slices of wider matrices", _slices(8, 64, 100, 80)),
        Case("slices, 50 columns", _slices(7, 50, 64, 90), ragged=True),
        Case("one row", _slices(1, 33, 40, 50), ragged=True),
        Case("one column", _slices(9, 1, 10, 12), ragged=True),
        Case(
            "float16 slices",
            lambda m: (
                m.normal(6, 70, dtype=m.half)[:, :45],
                m.normal(6, 80, dtype=m.half)[:, 30:75],
            ),
            ragged=True,
        ),
    ),
    mistakes=(
        Mistake(
            "row stride of a used for b",
            lambda a, b: a * _as_if_packed(b, a.stride(0)),
            "b's rows are found with a's row stride. Each tensor has its own: pass b.stride(0) "
            "too.",
        ),
        Mistake(
            "row stride of b used for a",
            lambda a, b: _as_if_packed(a, b.stride(0)) * b,
            "a's rows are found with b's row stride. Each tensor has its own: pass a.stride(0) "
            "too.",
        ),
        Mistake(
            "every program reads the first row",
            lambda a, b: a[:1].expand_as(a) * b[:1],
            "every program reads row 0: the row's start, row * stride, is missing from the loads.",
        ),
        Mistake(
            "adds instead of multiplying",
            lambda a, b: a + b,
            "the two are added. Here out[i, j] = a[i, j] * b[i, j].",
        ),
    ),
    hints=(
        "Let one program own one row. Its number is then the row's number, and what is left is a "
        "row of N elements, which a mask handles.",
        "Element [row, column] of a tensor lies row * stride(0) + column * stride(1) elements "
        "after its first one. Here stride(1) is 1 everywhere; stride(0) is different for a, b and "
        "out.",
        "a.data_ptr() already points at the first element of the slice. Pass a.stride(0), "
        "b.stride(0) and out.stride(0), and let columns = tl.arange(0, BLOCK) with mask columns < "
        "N.",
        "a = tl.load(a_ptr + row * a_row_stride + columns, mask=inside), b in the same way with "
        "its own stride, and tl.store(out_ptr + row * out_row_stride + columns, a * b, "
        "mask=inside).",
    ),
)


# --- mul_cost ------------------------------------------------------------------------------------


def mul_cost(n: int, block: int, element_size: int) -> tuple[int, int, int]:
    programs = (n + block - 1) // block
    return programs, programs * block - n, 3 * n * element_size


def _cost(label: str, n: int, block: int, element_size: int, ragged: bool = True) -> Case:
    return Case(label, lambda m: (n, block, element_size), ragged)


MUL_COST = Exercise(
    name="mul_cost",
    lesson=LESSON,
    title="Predict the cost",
    difficulty=2,
    minutes=10,
    reference=mul_cost,
    outputs=("programs", "masked_lanes", "bytes_moved"),
    cases=(
        _cost("float32, whole blocks", 4096, 1024, 4, ragged=False),
        _cost("float32, the last block partly filled", 5000, 1024, 4),
        _cost("float16", 1_000_000, 1024, 2),
        _cost("fewer elements than one block", 10, 256, 4),
        _cost("one element more than a block", 257, 256, 2),
    ),
    mistakes=(
        Mistake(
            "programs rounded down",
            lambda n, block, size: (n // block, (n // block) * block - n, 3 * n * size),
            "the number of programs is rounded down: the elements of the last, partly filled block "
            "have no program. Round up.",
        ),
        Mistake(
            "programs rounded down, lanes right",
            lambda n, block, size: (n // block, -n % block, 3 * n * size),
            "the number of programs is rounded down: the elements of the last, partly filled block "
            "have no program. Round up.",
        ),
        Mistake(
            "one program too many",
            lambda n, block, size: (n // block + 1, (n // block + 1) * block - n, 3 * n * size),
            "n // block + 1 starts one program too many where n is a whole number of blocks. "
            "(n + block - 1) // block does not.",
        ),
        Mistake(
            "one program too many, lanes right",
            lambda n, block, size: (n // block + 1, -n % block, 3 * n * size),
            "n // block + 1 starts one program too many where n is a whole number of blocks. "
            "(n + block - 1) // block does not.",
        ),
        Mistake(
            "store not counted",
            lambda n, block, size: (-(-n // block), -n % block, 2 * n * size),
            "only the two loads are counted: the result is written to memory too.",
        ),
        Mistake(
            "elements for bytes",
            lambda n, block, size: (-(-n // block), -n % block, 3 * n),
            "bytes_moved counts elements: each one has element_size bytes.",
        ),
        Mistake(
            "masked lanes counted as traffic",
            lambda n, block, size: (
                -(-n // block),
                -n % block,
                3 * (-(-n // block)) * block * size,
            ),
            "the masked lanes are counted as traffic. A masked lane reads and writes nothing: only "
            "n elements move.",
        ),
        Mistake(
            "lanes of the last block in use",
            lambda n, block, size: (-(-n // block), n % block, 3 * n * size),
            "masked_lanes is the number of lanes in use in the last block. Asked is how many are "
            "not in use.",
        ),
    ),
    hints=(
        "Draw 10 elements and blocks of 4. How many blocks do you need, and how many of their "
        "places stay empty?",
        "Every element belongs to exactly one program, and a program owns `block` places: "
        "programs * block places in all, n of them used.",
        "Three arrays of n elements cross the memory bus: a and b are read, out is written.",
        "programs = (n + block - 1) // block; masked_lanes = programs * block - n; "
        "bytes_moved = 3 * n * element_size.",
    ),
)

EXERCISES = (MUL, RELU_MUL, MUL_ROWS, MUL_COST)
