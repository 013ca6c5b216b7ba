"""A kernel's body with its switches decided, and lesson 06's kernel inside the package's."""

import pytest
from proof import ROOT, as_module, code_cells, solution_cells

from litellama.course.switches import body
from litellama.kernels.backend import tl, triton
from litellama.kernels.matvec import matvec_kernel

OFF = dict.fromkeys(["HAS_BIAS", "HAS_NORM", "SWIGLU", "HAS_RESIDUAL", "OVERLAP"], False)


@triton.jit
def switched(out_ptr, n, FIRST: tl.constexpr, SECOND: tl.constexpr):
    x = 0  # a comment
    if FIRST:
        x = 1
        if SECOND:
            x = 2
    else:
        x = 3
    if n > 0:
        if SECOND:
            x = 4
        tl.store(out_ptr, x)


def test_a_switch_leaves_one_of_its_branches():
    end = ["if n > 0:", "    tl.store(out_ptr, x)"]
    assert body(switched, FIRST=False, SECOND=False) == ["x = 0", "x = 3", *end]
    assert body(switched, FIRST=True, SECOND=False) == ["x = 0", "x = 1", *end]
    on = body(switched, FIRST=True, SECOND=True)
    assert on == ["x = 0", "x = 1", "x = 2", end[0], "    x = 4", end[1]]


def test_switches_not_given_stay():
    assert body(switched, SECOND=False) == [
        "x = 0", "if FIRST:", "    x = 1", "else:", "    x = 3", "if n > 0:",
        "    tl.store(out_ptr, x)",
    ]  # fmt: skip


def test_an_unknown_switch_is_refused():
    with pytest.raises(ValueError, match="switched has no switch THIRD"):
        body(switched, THIRD=True)


def test_the_lessons_matvec_is_the_packages_without_its_extras(tmp_path):
    cells = code_cells(ROOT / "notebooks" / "06_matmul.ipynb")
    (imports,) = (cell for cell in cells if cell.startswith("import triton\n"))
    (kernel,) = (cell for cell in cells if "def plain_matvec_kernel(" in cell)
    lesson = as_module([imports.split("@triton.jit")[0], kernel], tmp_path)
    imports, answer = solution_cells(ROOT / "solutions" / "06_matmul.ipynb", "matvec")
    solution = as_module([*imports, answer.replace("### ", "# ")], tmp_path)
    assert body(lesson.plain_matvec_kernel) == body(matvec_kernel, **OFF)
    assert body(solution.matvec_kernel) == body(matvec_kernel, **OFF)
