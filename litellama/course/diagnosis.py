"""What went wrong: from a learner's attempts to one sentence that names the mistake.

The diagnoses are tried in order, from what is certain (it raised, it returned None) through the
exercise's own list of known mistakes to what can be read off the numbers alone (a constant factor,
wrong in float16 only).  The first that fits is the one that is printed.
"""

import contextlib
import linecache
import math
import re
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from litellama.course.attempt import (
    Attempt,
    agrees,
    argument_names,
    attempt,
    cases_with_inputs,
    is_float,
    largest_error,
    tolerance,
    wrong,
)
from litellama.course.exercise import Exercise
from litellama.course.memory import Fault, OutOfBoundsError, unwritten

HALF = (torch.float16, torch.bfloat16)

# A known mistake rounds elsewhere than the learner's version of it does.
MISTAKE_SLACK = 4
# Numbers in a result from which on it does not agree with another one by chance.
TELLING = 8


@dataclass(frozen=True)
class Diagnosis:
    """A name (for tests), the text for the learner, and where: the case and the first number."""

    name: str
    text: str
    where: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evidence:
    """Everything a diagnosis may look at."""

    exercise: Exercise
    function: Callable[..., Any]
    attempts: list[Attempt]
    failed: list[Attempt]

    @property
    def first(self) -> Attempt:
        return self.failed[0]

    def first_wrong(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first result that is wrong in the first case that failed: (got, want)."""
        allowed = tolerance(self.exercise, self.first.dtype)
        for got, want in zip(self.first.results, self.first.want, strict=True):
            if wrong(got, want, allowed).any():
                return _numbers(got), _numbers(want)
        raise AssertionError("an attempt that failed has a wrong result")

    def again(self, **changes: Any) -> Attempt:
        """The first failed case once more, with something changed."""
        for (case, inputs), made in zip(
            cases_with_inputs(self.exercise), self.attempts, strict=False
        ):
            if made is self.first:
                return attempt(self.exercise, self.function, case, inputs, **changes)
        raise AssertionError("the first failed attempt is one of the attempts")


def diagnose(
    exercise: Exercise, function: Callable[..., Any], attempts: list[Attempt]
) -> Diagnosis | None:
    """The diagnosis of a wrong answer; None if every attempt is right."""
    for made in attempts:
        if made.error is not None and made.undefined:
            found = _undefined_lanes(Evidence(exercise, function, attempts, [made]))
            if found is not None:
                return found
        for look in (_raised, _returned_nothing, _wrong_form, _modified_inputs):
            found = look(exercise, made)
            if found is not None:
                return found
    failed = [made for made in attempts if not _is_right(exercise, made)]
    if not failed:
        return _out_of_bounds(exercise, attempts) or _remark(exercise, attempts)
    evidence = Evidence(exercise, function, attempts, failed)
    found = _undefined_lanes(evidence) or _remark(exercise, attempts, first=True)
    found = found or _known_mistake(evidence) or _out_of_bounds(exercise, attempts)
    for guess in _GUESSES:
        found = found or guess(evidence)
    assert found is not None  # the last guess always answers
    return Diagnosis(found.name, found.text, found.where or _where(evidence))


# --- certain -------------------------------------------------------------------------------------


def _undefined_lanes(evidence: Evidence) -> Diagnosis | None:
    """Whether a wrong result, or an error, changes with what masked lanes without other hold."""
    for made in evidence.failed:
        if not made.undefined:
            continue
        zeros = replace(evidence, failed=[made]).again(garbage=False)
        allowed = tolerance(evidence.exercise, made.dtype)
        if zeros.error is not None or (
            made.error is None and agrees(zeros.results, made.results, allowed)
        ):
            continue
        are = "are" if len(made.undefined) > 1 else "is"
        text = (
            f"{' and '.join(made.undefined)} {are} loaded with a mask and without other=, and "
            "the result depends on what the lanes outside of the mask hold. That is undefined: on "
            "a GPU it is whatever was there before, and here NaN and large numbers. Say what they "
            "hold, tl.load(..., mask=..., other=...): a number that leaves the result as it is."
        )
        where = [_case_line(evidence.exercise, made)]
        return Diagnosis("masked lanes without other", text, where)
    return None


def _raised(exercise: Exercise, made: Attempt) -> Diagnosis | None:
    if made.error is None:
        return None
    error, root = made.error, made.error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, OutOfBoundsError):
        name, advice = "out of bounds", _FAR_OUT
    else:
        name, advice = "raised", _translate(root)
    message = (str(root).strip().splitlines() or [""])[-1]
    where = [_case_line(exercise, made)]
    place = _kernel_line(error) or their_line(root) or their_line(error)
    if place:
        where.append(f"raised at line {place[0]}: {place[1]}")
    text = f"{type(root).__name__}: {message}" + (f"\n{advice}" if advice else "")
    return Diagnosis(name, text, where)


def _returned_nothing(exercise: Exercise, made: Attempt) -> Diagnosis | None:
    if not any(result is None for result in made.results):
        return None
    outputs = ", ".join(exercise.outputs)
    if len(made.results) > 1:
        text = f"One of the results is None; expected {outputs}."
    else:
        text = (
            f"The function returned None: it is still the stub, or the line that returns "
            f"{outputs} is missing."
        )
    return Diagnosis("returned None", text, [_case_line(exercise, made)])


def _wrong_form(exercise: Exercise, made: Attempt) -> Diagnosis | None:
    where = [_case_line(exercise, made)]
    if len(made.results) != len(made.want):
        counted = f"{len(made.want)} result{'s' if len(made.want) > 1 else ''}"
        text = f"Expected {counted} ({', '.join(exercise.outputs)}), got {len(made.results)}."
        return Diagnosis("wrong number of results", text, where)
    device = next((arg.device for arg in made.args if isinstance(arg, torch.Tensor)), None)
    for name, got, want in zip(exercise.outputs, made.results, made.want, strict=True):
        if not isinstance(want, torch.Tensor):
            if isinstance(got, bool) or not isinstance(got, int | float):
                text = f"{name} should be a number, got {_describe(got)}."
                return Diagnosis("wrong type", text, where)
            continue
        if not isinstance(got, torch.Tensor):
            text = f"{name} should be a tensor, got {_describe(got)}."
            return Diagnosis("wrong type", text, where)
        if got.shape != want.shape:
            text = f"{name} should have shape {list(want.shape)}, got {list(got.shape)}."
            if want.ndim > 1 and got.shape == want.mT.shape:
                return Diagnosis("transposed", text + " Rows and columns are exchanged.", where)
            return Diagnosis("wrong shape", text, where)
        if got.dtype != made.dtype:
            wanted = dtype_name(made.dtype)
            text = (
                f"{name} should be {wanted}, like the input, and is {dtype_name(got.dtype)}. "
                "Compute in float32 if you like; the result goes back in the dtype of the input."
            )
            return Diagnosis("wrong dtype", text, where)
        if got.device != device:
            text = f"{name} should be on {device}, like the input, and is on {got.device}."
            return Diagnosis("wrong device", text, where)
    return None


def _modified_inputs(exercise: Exercise, made: Attempt) -> Diagnosis | None:
    if not made.modified:
        return None
    names = " and ".join(made.modified)
    text = (
        f"The function changed its input {names}. Its caller still needs that: write into a new "
        f"tensor, such as torch.empty_like({made.modified[0]})."
    )
    return Diagnosis("modified its inputs", text, [_case_line(exercise, made)])


def _known_mistake(evidence: Evidence) -> Diagnosis | None:
    full = [made for made in evidence.attempts if made.dtype not in HALF]
    failed = [made for made in evidence.failed if made in full]
    # Two mistakes at once, one of them in 16 bits only, is common: then float32 tells the first.
    for part in (evidence, replace(evidence, attempts=full, failed=failed)):
        for mistake in evidence.exercise.mistakes if part.failed else ():
            with contextlib.suppress(Exception):  # one that cannot handle a case explains nothing
                if _explains(mistake.function, part):
                    return Diagnosis(mistake.name, f"It looks like {mistake.diagnosis}")
    return None


def _explains(function: Callable[..., Any], evidence: Evidence) -> bool:
    """Whether the results are those of ``function`` wherever it differs from the truth."""
    if any(_has_unwritten(made) for made in evidence.failed):
        return False  # what was never written is NaN, and would agree with any NaN
    differs = False
    for made in evidence.attempts:
        allowed = tolerance(evidence.exercise, made.dtype)
        results = function(*made.args)
        results = results if isinstance(results, tuple) else (results,)
        if agrees(results, made.want, MISTAKE_SLACK * allowed):
            if made in evidence.failed and not agrees(
                made.results, results, MISTAKE_SLACK * allowed
            ):
                return False
        elif not agrees(made.results, results, MISTAKE_SLACK * allowed):
            return False
        else:
            differs = True
    return differs


def _remark(exercise: Exercise, attempts: list[Attempt], first: bool = False) -> Diagnosis | None:
    """What the exercise's own watch has seen (if ``first``: what goes before known mistakes)."""
    for made in attempts:
        if made.remark is not None and (made.remark.first or not first):
            where = [_case_line(exercise, made)]
            text = made.remark.diagnosis
            if _is_right(exercise, made):
                text = f"Every number is right, but {text}"
            else:
                text = text[0].upper() + text[1:]
            return Diagnosis(made.remark.name, text, where)
    return None


def _out_of_bounds(exercise: Exercise, attempts: list[Attempt]) -> Diagnosis | None:
    for made in attempts:
        if made.faults:
            text = _fault_text(made.faults[0])
            if _is_right(exercise, made):
                text = f"Every number is right, but memory is not safe. {text}"
            else:
                text += " If it has one, look at where the row starts: which stride, which length?"
            return Diagnosis(
                f"{made.faults[0].action} out of bounds", text, [_case_line(exercise, made)]
            )
    return None


def _fault_text(fault: Fault) -> str:
    subject = f"tl.{fault.action}" if fault.program is not None else "the function"
    verb = "reads" if fault.action == "load" else "writes"
    program = ""
    if fault.program is not None:
        index = fault.program[0] if not any(fault.program[1:]) else fault.program
        program = f"In program {index}, "
        subject = f"tl.{fault.action}"
    many = f"{fault.elements} element{'s' if fault.elements != 1 else ''}"
    sentence = f"{program}{subject} {verb} {many} {fault.side} of {fault.tensor}."
    sentence = sentence[0].upper() + sentence[1:]
    more = ", and other=... where those lanes are used later" if fault.action == "load" else ""
    return (
        f"{sentence} On a GPU that is another tensor's memory, or a crash. "
        f"Give tl.{fault.action} a mask that keeps the lanes inside{more}."
    )


# --- guesses from the numbers --------------------------------------------------------------------


def _nothing_written(evidence: Evidence) -> Diagnosis | None:
    if all(
        isinstance(result, torch.Tensor) and unwritten(result).all()
        for made in evidence.failed
        for result in made.results
    ):
        return Diagnosis(
            "nothing written",
            "Nothing was written to the output: it still holds whatever torch.empty gave. Is the "
            "kernel still the stub, or its tl.store missing?",
            [_case_line(evidence.exercise, evidence.first)],
        )
    return None


def _partly_written(evidence: Evidence) -> Diagnosis | None:
    made = evidence.first
    where = [_case_line(evidence.exercise, made)]
    for name, result in zip(evidence.exercise.outputs, made.results, strict=True):
        if isinstance(result, torch.Tensor) and unwritten(result).any():
            text = _what_is_missing(name, unwritten(result), len(made.results))
            return Diagnosis("partly written", text, where)
    return None


def _what_is_missing(name: str, missing: torch.Tensor, results: int) -> str:
    """One sentence on which elements were never written, and what that looks like."""
    count = int(missing.sum())
    few = (
        "Either too few programs were started (division rounds down: use triton.cdiv(n, BLOCK)), "
        "or the programs write over each other (is tl.program_id in the offsets of tl.store, times "
        "the length of what one program writes?)."
    )
    if missing.all():
        return f"{name} was never written. " + ("Is its tl.store there?" if results > 1 else few)
    were = "was" if count == 1 else "were"
    text = f"{count} of {missing.numel()} elements of {name} {were} never written"
    text += f"; the first is {name}{_index(missing)}."
    rows = missing.reshape(-1, missing.shape[-1])
    if missing.flatten()[int(missing.flatten().nonzero()[0]) :].all():
        return f"{text} Everything before it was. {few}"
    if bool((rows == rows[0]).all()):
        return (
            f"{text} The same columns are missing in every row: does the loop reach its end, and "
            "do the offsets of tl.store have the right step?"
        )
    return f"{text} Compare the grid, the offsets and the mask of tl.store."


def _swapped(evidence: Evidence) -> Diagnosis | None:
    outputs = evidence.exercise.outputs
    if len(outputs) == 2 and all(
        agrees(made.results[::-1], made.want, tolerance(evidence.exercise, made.dtype))
        for made in evidence.attempts
    ):
        text = f"The two results are exchanged: the order is {outputs[0]}, {outputs[1]}."
        return Diagnosis("results exchanged", text)
    return None


def _not_finite(evidence: Evidence) -> Diagnosis | None:
    got, want = evidence.first_wrong()
    if got.isfinite().all() or not want.isfinite().all():
        return None
    what = "NaN" if got.isnan().any() else "inf"
    again = evidence.again(guard_fill=0.0)
    if again.error is None and all(_numbers(result).isfinite().all() for result in again.results):
        text = (
            f"The {what} comes from memory around the inputs, which the check fills with NaN: a "
            "load reads past the end of a row or of a tensor, or ignores the strides. Mask the "
            "load."
        )
        return Diagnosis("reads outside", text)
    if _only_half_fails(evidence):
        text = (
            f"{what} in 16 bits only: float16 ends at 65504, and a square or a sum passed that. "
            f"Convert to float32 right after the load, .to(tl.float32)."
        )
        return Diagnosis("overflow in half precision", text)
    text = (
        f"The result holds {what} where a finite number is expected: a division by zero, the root "
        "of a negative number, or memory that was never written."
    )
    return Diagnosis("not finite", text)


def _ignores_strides(evidence: Evidence) -> Diagnosis | None:
    strided = [
        name
        for name, arg in zip(argument_names(evidence.exercise), evidence.first.args, strict=False)
        if isinstance(arg, torch.Tensor) and not arg.is_contiguous()
    ]
    if not strided or not _is_right(evidence.exercise, evidence.again(contiguous=True)):
        return None
    are = "is a view" if len(strided) == 1 else "are views"
    text = (
        f"The same numbers in contiguous memory come out right. Here {' and '.join(strided)} {are} "
        f"into something wider: the way from one row to the next is .stride(0), not the width."
    )
    return Diagnosis("strides ignored", text)


def _all_zero(evidence: Evidence) -> Diagnosis | None:
    got, want = evidence.first_wrong()
    if got.ndim and got.numel() and not got.any() and want.any():  # one number may well be 0
        text = "Every element is zero. Was the output made with zeros and never written?"
        return Diagnosis("all zero", text)
    return None


def _in_half_only(evidence: Evidence) -> Diagnosis | None:
    if not _only_half_fails(evidence):
        return None
    got, want = evidence.first_wrong()
    if not got.any():
        text = (
            "Zero in 16 bits only: a square or sum passed 65504, the end of float16, and dividing "
            "by infinity gave zero. Convert to float32 right after the load, .to(tl.float32)."
        )
        return Diagnosis("overflow in half precision", text)
    error = largest_error(got, want)
    text = (
        f"Right in float32, wrong in {dtype_name(evidence.first.dtype)} (relative error "
        f"{error:.1g}). A sum or a product kept in 16 bits loses digits: convert to float32 right "
        "after the load."
    )
    return Diagnosis("half precision", text)


def _transposed(evidence: Evidence) -> Diagnosis | None:
    got, want = evidence.first_wrong()
    allowed = tolerance(evidence.exercise, evidence.first.dtype)
    if got.ndim == 2 and not wrong(got.flatten(), want.T.flatten(), allowed).any():
        text = (
            "The numbers are right, and written column by column: rows and columns are exchanged."
        )
        return Diagnosis("transposed", text)
    return None


def _factor(evidence: Evidence) -> Diagnosis | None:
    factors = []
    for made in evidence.failed:
        allowed = MISTAKE_SLACK * tolerance(evidence.exercise, made.dtype)
        for got, want in zip(map(_numbers, made.results), map(_numbers, made.want), strict=True):
            if want.numel() >= 4 and wrong(got, want, allowed).any():  # fewer fit by chance
                factor = _ratio(got, want, allowed)
                if factor is None:
                    return None
                factors.append((factor, made))
    if not factors:
        return None
    values = [factor for factor, _ in factors]
    if max(values) - min(values) <= 0.01 * abs(values[0]):
        text = f"Every element is {values[0]:.6g} times what it should be."
        if abs(values[0] + 1) < 0.01:
            return Diagnosis("constant factor", "Every element has the wrong sign.")
    else:
        text = "The result is the right one times a number that depends on the case: " + "; ".join(
            f'{factor:.6g} in "{made.case.label}"' for factor, made in factors[:3]
        )
    return Diagnosis("constant factor", text + (" A scale is missing, or applied twice."))


def _ratio(got: torch.Tensor, want: torch.Tensor, allowed: float) -> float | None:
    """The one number c with got = c * want, or None."""
    large = want.abs() > 0.1 * want.abs().mean()
    if not large.any():
        return None
    ratio = float((got[large] / want[large]).median())
    fits = math.isfinite(ratio) and ratio != 0 and not wrong(got, ratio * want, allowed).any()
    return ratio if fits else None


def _ragged_only(evidence: Evidence) -> Diagnosis | None:
    right = [made for made in evidence.attempts if made not in evidence.failed]
    right_ragged = [made for made in right if made.case.ragged]
    if (
        all(made.case.ragged for made in evidence.failed)
        and len(evidence.failed) > len(right_ragged)
        and len(right) > len(right_ragged)
    ):
        text = (
            "Right where the size is a multiple of the block, wrong elsewhere: look at the last, "
            "partly filled block. Is the mask on the load and on the store, and is other=0 there?"
        )
        return Diagnosis("last block", text)
    return None


def _nearly(evidence: Evidence) -> Diagnosis | None:
    allowed = max(tolerance(evidence.exercise, made.dtype) for made in evidence.failed)
    error = max(
        largest_error(got, want)
        for made in evidence.failed
        for got, want in zip(made.results, made.want, strict=True)
    )
    if not error < min(100 * allowed, 0.05):
        return None
    text = (
        f"Very near: the largest relative error is {error:.1g}, and "
        f"{tolerance(evidence.exercise, evidence.first.dtype):.1g} is allowed. Errors of "
        f"this size come from a sum or a product kept in float16, or from a constant slightly off."
    )
    return Diagnosis("nearly", text)


def _known_in_part(evidence: Evidence) -> Diagnosis | None:
    """A known mistake that makes just the first wrong case: there is a second mistake besides."""
    made, others = evidence.first, [a for a in evidence.attempts if a is not evidence.first]
    if not all(is_float(want) and want.numel() >= TELLING for want in made.want):
        return None  # so few numbers may agree by chance
    for mistake in evidence.exercise.mistakes:
        with contextlib.suppress(Exception):  # one that cannot handle a case explains nothing
            is_theirs = not _gives(mistake.function, made, evidence, made.want)
            is_theirs = is_theirs and _gives(mistake.function, made, evidence, made.results)
            if is_theirs and all(
                other in evidence.failed or _gives(mistake.function, other, evidence, other.want)
                for other in others
            ):
                text = f"Here it looks like {mistake.diagnosis} In another case there is more."
                return Diagnosis(f"{mistake.name}, and another", text)
    return None


def _gives(
    function: Callable[..., Any], made: Attempt, evidence: Evidence, results: tuple[Any, ...]
) -> bool:
    """Whether the function's results in this case are these."""
    own = function(*made.args)
    own = own if isinstance(own, tuple) else (own,)
    allowed = MISTAKE_SLACK * tolerance(evidence.exercise, made.dtype)
    return agrees(results, own, allowed)


def _unexplained(evidence: Evidence) -> Diagnosis:
    wrong_cases, all_cases = len(evidence.failed), len(evidence.attempts)
    text = f"{all_cases - wrong_cases} of {all_cases} cases are right."
    if wrong_cases < all_cases:
        labels = [f'"{made.case.label}"' for made in evidence.failed]
        text += " Wrong: " + ", ".join(dict.fromkeys(labels)) + "."
    return Diagnosis("wrong values", text)


_GUESSES: tuple[Callable[[Evidence], Diagnosis | None], ...] = (
    _nothing_written,
    _partly_written,
    _swapped,
    _ignores_strides,
    _not_finite,
    _in_half_only,
    _all_zero,
    _transposed,
    _factor,
    _ragged_only,
    _nearly,
    _known_in_part,
    _unexplained,
)


# --- saying it -----------------------------------------------------------------------------------

_FAR_OUT = (
    "The pointer is far from every tensor. Offsets count elements, not bytes, and a row starts at "
    "row * stride. Is something multiplied twice, or a mask on the wrong variable?"
)
_TRANSLATIONS = (
    (
        r"arange's arguments must be",
        "tl.arange needs a size known to the compiler: BLOCK, declared as tl.constexpr.",
    ),
    (r"arange.*power of 2", "Pass a power of two as BLOCK, such as triton.next_power_of_2(n)."),
    (
        r"Cannot call @triton\.jit'd|outside of the scope of a kernel|attribute 'is_ptr'",
        "A kernel is started on a grid: kernel[(programs,)](arguments).",
    ),
    (
        r"_semantic|Did you forget to add @triton\.jit",
        "A tl function was called outside a kernel: is @triton.jit above the kernel's def?",
    ),
    (
        r"incompatible dimensions|could not be broadcast|Cannot make_shape_compatible",
        "Two blocks have different shapes. Rows need [:, None] and columns [None, :] to make a "
        "tile.",
    ),
    (
        r"missing (a required|\d+ required).*argument",
        "The call leaves out a parameter of the function: compare the two, in order.",
    ),
    (r"has no attribute 'arange'|name 'tl' is not defined", "import triton.language as tl."),
    (r"name 'triton' is not defined", "import triton (after litellama)."),
    (
        r"Unsupported ptr type|Unsupported pointer|not a pointer",
        "tl.load and tl.store take a pointer plus offsets: pass the tensor itself to the kernel.",
    ),
    (
        r"'JITFunction' object is not subscriptable|'function' object is not subscriptable",
        "kernel[grid] needs @triton.jit above the kernel's def.",
    ),
    (
        r"cannot be interpreted as an integer|only 0-dimensional arrays can be converted",
        "range() wants a Python number here: declare that parameter as tl.constexpr.",
    ),
    (
        r"device-side assert|illegal memory access",
        "A pointer left its tensor and the GPU stopped: restart the kernel of this notebook, and "
        "check the masks.",
    ),
)
_NOT_THEIRS = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]), "<frozen")


def _translate(error: BaseException) -> str:
    message = f"{error}"
    for pattern, advice in _TRANSLATIONS:
        if re.search(pattern, message, re.DOTALL):
            return advice
    return ""


def _kernel_line(error: BaseException | None) -> tuple[int, str] | None:
    """The line of a kernel that Triton's compiler refused, counted from the kernel's own def."""
    while error is not None:
        source = getattr(error, "src", None)
        number = getattr(getattr(error, "node", None), "lineno", None)
        if isinstance(source, str) and number is not None:
            line = source.splitlines()[number - 1 : number]
            return (number, line[0].strip()) if line else None
        error = error.__cause__
    return None


def their_line(error: BaseException) -> tuple[int, str] | None:
    """The deepest line of the learner's own code that an error passed through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        if "site-packages" in name or name.startswith(_NOT_THEIRS) or frame.lineno is None:
            continue
        line = linecache.getline(name, frame.lineno).strip() or (frame.line or "")
        if line:
            return frame.lineno, line
    return None


def _where(evidence: Evidence) -> list[str]:
    """The failed case, and the first number that is wrong in it."""
    made, lines = evidence.first, [_case_line(evidence.exercise, evidence.first)]
    allowed = tolerance(evidence.exercise, made.dtype)
    for name, got, want in zip(evidence.exercise.outputs, made.results, made.want, strict=True):
        bad = wrong(got, want, allowed)
        if not bad.any():
            continue
        if isinstance(want, torch.Tensor):
            at = int(bad.flatten().nonzero()[0])
            values = want.flatten()[at], _numbers(got).flatten()[at]
            count = f" ({int(bad.sum())} of {bad.numel()} elements are wrong)"
            lines.append(f"{name}{_index(bad)}: expected {_pair(*values)}{count}")
        else:
            lines.append(f"{name}: expected {want:,}, got {got:,}")
    return lines


def _pair(want: Any, got: Any) -> str:
    """Two numbers, with as many digits as it takes to see the difference."""
    want, got = float(want), float(got)
    for digits in (4, 6, 9, 12):
        if f"{want:.{digits}g}" != f"{got:.{digits}g}":
            break
    return f"{want:.{digits}g}, got {got:.{digits}g}"


def _case_line(exercise: Exercise, made: Attempt) -> str:
    described = [
        f"{name} {_describe(arg)}" if isinstance(arg, torch.Tensor) else f"{name}={arg}"
        for name, arg in zip(argument_names(exercise), made.args, strict=False)
    ]
    return f'Case "{made.case.label}": {", ".join(described)}'


def _describe(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r:.60}"
    strides = "" if value.is_contiguous() else f" strides {list(value.stride())}"
    return f"{list(value.shape)} {dtype_name(value.dtype)}{strides}"


def dtype_name(dtype: torch.dtype | None) -> str:
    """``float16`` for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")


def _index(marked: torch.Tensor) -> str:
    """Where the first marked element is, as ``[2, 5]``."""
    return str([int(i) for i in marked.nonzero()[0]])


def _numbers(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach().cpu().double()


def _has_unwritten(made: Attempt) -> bool:
    return any(isinstance(r, torch.Tensor) and bool(unwritten(r).any()) for r in made.results)


def _is_right(exercise: Exercise, made: Attempt) -> bool:
    return made.error is None and agrees(made.results, made.want, tolerance(exercise, made.dtype))


def _only_half_fails(evidence: Evidence) -> bool:
    """Every failure is in 16 bits, and some case in float32 is right."""
    passed = [made for made in evidence.attempts if made not in evidence.failed]
    return all(made.dtype in HALF for made in evidence.failed) and any(
        made.dtype not in HALF for made in passed
    )
