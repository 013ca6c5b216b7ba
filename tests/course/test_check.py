"""check and hint: the verdicts that no exercise owns, and what the check sees of memory."""

import math
import subprocess
import sys

import pytest
import torch

from litellama.course import check, hint
from litellama.course.check import examine, reset_hints
from litellama.course.exercise import Case, Exercise, Maker, Mistake
from litellama.course.exercises import all_exercises, find
from litellama.course.memory import Memory, OutOfBoundsError, unwritten
from litellama.errors import ExerciseError
from litellama.kernels.backend import interpreting, tl, triton

CPU = torch.device("cpu")


def diagnosis(name, fn) -> str:
    return examine(find(name), fn).name


# --- check and hint ------------------------------------------------------------------------------


def test_check_prints_a_verdict_and_returns_it(capsys):
    assert check("mul", torch.mul) is True
    assert capsys.readouterr().out.startswith("mul: right. ")
    assert check("mul", torch.add) is False
    out = capsys.readouterr().out
    assert out.startswith("mul: not yet.\n")
    assert 'Case "one full block": a [1024] float32, b [1024] float32' in out
    assert "out[0]: expected" in out
    assert "the two are added" in out


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(ExerciseError, match="did you mean 'rms_norm'"):
        check("rmsnorm", torch.mul)
    with pytest.raises(ExerciseError, match="the exercises are mul"):
        hint("zzz")


def test_hints_go_on_to_the_end_and_then_name_the_solution(capsys):
    reset_hints()
    hints = find("mul").hints
    for number, text in enumerate(hints, start=1):
        hint("mul")
        assert capsys.readouterr().out.split() == f"Hint {number} of {len(hints)}: {text}".split()
    for _ in range(2):
        hint("mul")
        out = capsys.readouterr().out
        assert "no more hints" in out
        assert "solutions/01_first_triton_kernel.ipynb" in out
    reset_hints()


def test_exercise_names_are_unique_and_in_the_order_of_lessons():
    lessons = [exercise.lesson for exercise in all_exercises().values()]
    assert lessons == sorted(lessons)


# --- handed in wrongly ---------------------------------------------------------------------------


@triton.jit
def a_kernel(a_ptr, b_ptr, BLOCK: tl.constexpr):
    pass


@pytest.mark.parametrize("thing", [a_kernel, torch.ones(3), None, 3], ids=type)
def test_what_is_not_a_launcher_is_refused_politely(thing):
    assert diagnosis("mul", thing) == "not a function"


def test_a_wrong_number_of_parameters():
    verdict = examine(find("mul"), lambda a: a)
    assert verdict.name == "raised"
    assert "TypeError" in verdict.text


def test_an_error_shows_the_learners_own_line():
    def broken(a, b):
        return a * undefined_name  # noqa: F821

    verdict = examine(find("mul"), broken)
    assert verdict.name == "raised"
    assert "NameError: name 'undefined_name' is not defined" in verdict.text
    assert "return a * undefined_name" in verdict.text


@triton.jit
def mismatched_kernel(a_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + offsets, mask=tl.arange(0, 2 * BLOCK) < n)
    tl.store(out_ptr + offsets, a, mask=offsets < n)


def test_an_error_inside_a_kernel_shows_the_kernels_line_and_a_translation():
    def launcher(a, b):
        out = torch.empty_like(a)
        mismatched_kernel[(1,)](a, out, a.numel(), BLOCK=64)
        return out

    verdict = examine(find("mul"), launcher)
    assert verdict.name == "raised"
    assert "tl.arange(0, 2 * BLOCK)" in verdict.text
    assert "Two blocks have different shapes" in verdict.text


def test_an_interrupt_is_not_swallowed():
    def interrupted(a, b):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(find("mul"), interrupted)


# --- read off the numbers ------------------------------------------------------------------------


def half_of(x):
    return x.half() if x.dtype == torch.float32 else x


GENERIC = {
    "wrong type": lambda a, b: 3.0,
    "wrong number of results": lambda a, b: (a * b, a),
    "wrong shape": lambda a, b: (a * b)[None],
    "wrong dtype": lambda a, b: (a * b).double(),
    "returned None": lambda a, b: None,
    "modified its inputs": lambda a, b: a.mul_(b),
    "nothing written": lambda a, b: torch.empty_like(a),
    "all zero": lambda a, b: torch.zeros_like(a),
    "constant factor": lambda a, b: 3 * a * b,
    "not finite": lambda a, b: a * b / 0 * 0,
    "nearly": lambda a, b: a * b * (1 + 1e-4 * torch.sin(a)),
    "wrong values": lambda a, b: torch.sin(a) * b,
    "half precision": lambda a, b: a * b * (1 if a.dtype == torch.float32 else 1 + a.abs() / 50),
    "last block": lambda a, b: a * b + (a.numel() % 64 > 0),
}


@pytest.mark.parametrize("name", GENERIC)
def test_generic_diagnoses(name):
    assert diagnosis("mul", GENERIC[name]) == name


def test_a_transposed_shape_and_transposed_numbers():
    assert diagnosis("mul_rows", lambda a, b: (a * b).T) == "transposed"
    by_columns = lambda a, b: (a * b).T.reshape(a.shape)  # noqa: E731
    assert diagnosis("mul_rows", by_columns) == "transposed"


def test_strides_ignored_is_told_from_the_same_numbers_in_contiguous_memory():
    packed = lambda x: x.as_strided(x.shape, (x.shape[1], 1), x.storage_offset())  # noqa: E731
    assert diagnosis("mul_rows", lambda a, b: packed(a) * packed(b)) == "strides ignored"


def test_the_factor_is_named():
    text = examine(find("mul"), lambda a, b: -2 * a * b).text
    assert "Every element is -2 times what it should be." in text


def test_overflow_in_half_precision():
    def squares_in_half(x, weight, eps):
        mean = (x * x).mean(-1, keepdim=True).float()
        return (x.float() * torch.rsqrt(mean + eps) * weight).to(x.dtype) / (mean < math.inf)

    found = examine(find("rms_norm"), squares_in_half)
    assert found.name == "overflow in half precision", found.text


def test_zero_in_half_precision_is_an_overflow_too():
    def squares_in_half(x, weight, eps):
        mean = (x * x).mean(-1, keepdim=True).float()
        return (x.float() * torch.rsqrt(mean + eps) * weight).to(x.dtype)

    found = examine(find("rms_norm"), squares_in_half)
    assert found.name == "overflow in half precision", found.text


def test_two_correct_results_in_the_wrong_order():
    right = find("skip_rms_norm").reference
    assert diagnosis("skip_rms_norm", lambda *args: right(*args)[::-1]) == "results exchanged"


def test_a_tolerance_is_not_stretched_by_one_large_element():
    """Errors are measured against the element and the scale of the case, not the maximum."""
    exercise = Exercise(
        "probe", "01_x", "", 1, 1, lambda x: x,
        (Case("mixed", lambda m: (torch.cat([m.normal(1000), m.full(1, value=20.0)]),)),), (), (),
    )  # fmt: skip
    assert examine(exercise, lambda x: x.clone()).passed
    assert not examine(exercise, lambda x: x + 1e-3).passed


def test_a_mistake_must_agree_everywhere_it_differs():
    """A mistake that explains one case of two is not named."""
    always = Mistake("always", lambda x: x + 1, "one is added.")
    cases = tuple(Case(f"{n}", lambda m, n=n: (m.normal(n),)) for n in (64, 128))
    exercise = Exercise("probe", "01_x", "", 1, 1, lambda x: x.clone(), cases, (always,), ())
    assert examine(exercise, lambda x: x + 1).name == "always"
    assert examine(exercise, lambda x: x + (len(x) > 64)).name != "always"


def test_cases_are_the_same_on_every_run():
    for exercise in all_exercises().values():
        for case in exercise.cases:
            for one, two in zip(case.make(Maker(7)), case.make(Maker(7)), strict=True):
                if isinstance(one, torch.Tensor):
                    assert torch.equal(one, two)
                else:
                    assert one == two


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fresh_memory_is_known_until_it_is_written(dtype):
    memory = Memory()
    with memory.watching():
        made = torch.empty(3, 5, dtype=dtype)
        zeros = torch.zeros(4, dtype=dtype)
    assert made.isnan().all()
    assert unwritten(made).all()
    made[1] = math.nan  # a NaN that was computed is not "unwritten"
    made[2] = made[0] + 1
    assert unwritten(made).tolist() == [[True] * 5, [False] * 5, [False] * 5]
    assert not unwritten(zeros).any()
    assert zeros.eq(0).all()


def test_a_guarded_input_keeps_values_and_strides_and_poisons_the_gaps():
    x = torch.arange(12.0).reshape(3, 4)[:, 1:3]
    guarded = Memory().guard_input(x, "x", CPU)
    assert torch.equal(guarded, x)
    assert guarded.stride() == x.stride()
    assert guarded.as_strided((1,), (1,), guarded.storage_offset() + 2).isnan().all()


def test_writes_beside_a_tensor_leave_traces():
    memory = Memory()
    x = memory.guard_input(torch.ones(10), "x", CPU)
    assert memory.faults() == []
    assert memory.modified_inputs() == []
    x.as_strided((1,), (1,), x.storage_offset() + 10).zero_()
    (fault,) = memory.faults()
    assert (fault.action, fault.tensor, fault.side) == ("store", "x", "past the end")
    assert memory.modified_inputs() == []
    x[0] = 5
    assert memory.modified_inputs() == ["x"]


@triton.jit
def shifted_copy_kernel(x_ptr, out_ptr, n, shift, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets + shift, mask=offsets < n)
    tl.store(out_ptr + offsets, x, mask=offsets < n)


@pytest.mark.skipif(not interpreting(), reason="pointers are watched in the interpreter only")
@pytest.mark.parametrize(
    ("shift", "side"), [(0, None), (3, "past the end"), (-2, "before the start")]
)
def test_the_interpreters_loads_are_watched(shift, side):
    memory = Memory()
    x = memory.guard_input(torch.ones(100), "x", CPU)
    with memory.watching():
        out = torch.empty_like(x)
        shifted_copy_kernel[(2,)](x, out, 100, shift, BLOCK=64)
    seen = [(f.action, f.tensor, f.elements, f.side) for f in memory.faults()]
    assert seen == ([] if side is None else [("load", "x", abs(shift), side)])


@triton.jit
def reduced_kernel(x_ptr, out_ptr, n, OTHER: tl.constexpr, LARGEST: tl.constexpr):
    offsets = tl.arange(0, 8)
    if OTHER:
        x = tl.load(x_ptr + offsets, mask=offsets < n, other=0)
    else:
        x = tl.load(x_ptr + offsets, mask=offsets < n)
    tl.store(out_ptr, tl.max(x, axis=0) if LARGEST else tl.sum(x, axis=0))


@pytest.mark.skipif(not interpreting(), reason="on a GPU the lanes are what they are")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.int64])
@pytest.mark.parametrize("largest", [False, True], ids=["sum", "max"])
def test_masked_lanes_without_other_hold_garbage(dtype, largest):
    """Also for a maximum, which in Triton leaves NaN out.  With other, and where all lanes are
    inside, nothing is changed; nor where garbage is not wanted, but then it is known as well."""

    def reduced(n: int, other: bool, garbage: bool = True) -> tuple[float, list[str]]:
        memory = Memory(garbage=garbage)
        x = memory.guard_input(torch.ones(n, dtype=dtype), "x", CPU)
        out = torch.zeros(1, dtype=dtype)
        with memory.watching():
            reduced_kernel[(1,)](x, out, n, OTHER=other, LARGEST=largest)
        return float(out), memory.undefined

    assert reduced(5, other=True) == (1 if largest else 5, [])
    assert reduced(8, other=False) == (1 if largest else 8, [])
    assert reduced(5, other=False, garbage=False) == (1 if largest else 5, ["x"])
    number, names = reduced(5, other=False)
    assert number != (1 if largest else 5)
    assert names == ["x"]


@triton.jit
def one_lane_kernel(x_ptr, out_ptr, n):
    tl.store(out_ptr, tl.load(x_ptr, mask=n > 1, other=0.0) + 1.0)


@pytest.mark.skipif(not interpreting(), reason="on a GPU the lanes are what they are")
def test_one_lane_with_other_is_left_alone():
    """The interpreter forgets that this load has an other: 0.0 counts as none there."""
    memory = Memory()
    x = memory.guard_input(torch.ones(1), "x", CPU)
    out = torch.zeros(1)
    with memory.watching():
        one_lane_kernel[(1,)](x, out, 1)
    assert (float(out), memory.undefined) == (1.0, [])


@triton.jit
def gather_kernel(x_ptr, places_ptr, out_ptr, n, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    places = tl.load(places_ptr + offsets, mask=offsets < n)
    inside = offsets < n if MASKED else offsets < BLOCK
    x = tl.load(x_ptr + places, mask=inside, other=0.0)
    tl.store(out_ptr, tl.sum(x, axis=0))


def gathered_sum(masked):
    def function(x, places):
        out = torch.empty(1, dtype=x.dtype, device=x.device)
        n = len(places)
        gather_kernel[(1,)](x, places, out, n, BLOCK=triton.next_power_of_2(n), MASKED=masked)
        return out

    return function


@pytest.mark.skipif(not interpreting(), reason="on a GPU the lanes are what they are")
def test_undefined_places_are_followed_only_by_lanes_inside():
    exercise = Exercise(
        "sum", "99_none", "", 1, 5, lambda x, places: x[places].sum().view(1),
        (Case("six", lambda m: (m.normal(30, mean=1.0), torch.tensor([4, 8, 15, 16, 23, 29]))),),
        (), ("A hint.",) * 3,
    )  # fmt: skip
    assert examine(exercise, gathered_sum(masked=True)).passed
    verdict = examine(exercise, gathered_sum(masked=False))
    assert verdict.name == "masked lanes without other"
    assert "places is loaded with a mask and without other=" in verdict.text.replace("\n  ", "")


@pytest.mark.skipif(not interpreting(), reason="pointers are watched in the interpreter only")
def test_a_wild_pointer_is_an_error_and_not_a_crash():
    memory = Memory()
    x = memory.guard_input(torch.ones(100), "x", CPU)
    with pytest.raises(Exception, match="outside every tensor") as caught, memory.watching():
        shifted_copy_kernel[(1,)](x, torch.empty_like(x), 100, 10**8, BLOCK=64)
    root = caught.value
    while root.__cause__ is not None:
        root = root.__cause__
    assert isinstance(root, OutOfBoundsError)


@pytest.mark.skipif(not interpreting(), reason="pointers are watched in the interpreter only")
def test_tensors_that_the_function_computes_are_its_own_business():
    """A temporary, such as x.contiguous(), is no guarded tensor: reading it is no fault."""
    memory = Memory()
    x = memory.guard_input(torch.ones(10, 8)[:, :4], "x", CPU)
    with memory.watching():
        dense = x.contiguous()
        out = torch.empty_like(dense)
        shifted_copy_kernel[(1,)](dense, out, 40, 0, BLOCK=64)
    assert memory.faults() == []
    assert torch.equal(out, dense)


def test_nothing_stays_patched_after_a_check():
    check("mul", torch.mul)
    assert not torch.empty(4096).isnan().all()
    if interpreting():
        from triton.runtime.interpreter import InterpreterBuilder

        assert InterpreterBuilder.create_masked_load.__name__ == "create_masked_load"


def test_importing_the_checks_imports_nothing_of_jupyter_or_plots():
    heavy = ("matplotlib", "IPython", "ipywidgets", "nbformat", "transformers")
    source = f"import sys, litellama.course; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_two_mistakes_at_once_the_first_is_told_from_float32(capsys):
    """Plain torch code forgets float32 easily; that must not hide what is wrong everywhere."""

    def eps_outside(x, weight, eps=1e-6):
        return x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight

    assert not check("rms_norm", eps_outside)
    assert "epsilon is outside the square root" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("length", [50, 3])
def test_two_mistakes_at_once_the_first_is_named_and_the_other_announced(length):
    """A known mistake that makes the first wrong case, and one that nobody knows in the second."""
    one_more = Mistake("one more", lambda x: x + 1, "one is added.")
    cases = tuple(Case(f"{n}", lambda m, n=n: (m.normal(n),)) for n in (length, 128))
    exercise = Exercise("probe", "01_x", "", 1, 1, lambda x: x.clone(), cases, (one_more,), ())

    def both(x):
        return x + 1 if len(x) == length else x.flip(0) + 1

    verdict = examine(exercise, both)
    few = length < 8  # numbers that may agree by chance
    assert verdict.name == ("wrong values" if few else "one more, and another")
    assert ("one is added. In another case there is more" in verdict.text) == (not few)
    right_elsewhere = examine(exercise, lambda x: x + 1 if len(x) == length else x.clone())
    assert "one more" not in right_elsewhere.name


def test_a_number_where_infinity_is_expected_is_wrong():
    exercise = Exercise(
        name="empty_maximum", lesson="none", title="", difficulty=1, minutes=1,
        reference=lambda x: x.masked_fill(x < 0, -math.inf),
        cases=(Case("some below zero", lambda m: (m.normal(50),)),), mistakes=(), hints=(),
    )  # fmt: skip
    assert examine(exercise, exercise.reference).passed
    assert not examine(exercise, lambda x: x.clamp_min(0.0)).passed
    assert not examine(exercise, lambda x: x.masked_fill(x < 0, math.inf)).passed
