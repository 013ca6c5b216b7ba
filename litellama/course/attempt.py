"""Running a learner's function on an exercise's cases, and comparing what comes back."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from litellama.course.exercise import Case, Exercise, Maker, Remark
from litellama.course.memory import Fault, Memory

SEED = 20


@dataclass(eq=False)
class Attempt:
    """One case, what the function made of it, and what it should have made."""

    case: Case
    args: tuple[Any, ...]  # as the function received them
    want: tuple[Any, ...]  # float64 tensors, or numbers
    dtype: torch.dtype | None  # of every tensor that should come back
    got: Any = None
    error: BaseException | None = None
    modified: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)  # loaded from with a mask and no other=
    remark: Remark | None = None  # of the exercise's own watch

    @property
    def results(self) -> tuple[Any, ...]:
        """What came back, as a tuple even where it is one tensor."""
        return tuple(self.got) if isinstance(self.got, tuple | list) else (self.got,)


def device() -> torch.device:
    """Where the checks run: the GPU if there is one, else the CPU and Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cases_with_inputs(exercise: Exercise) -> Iterator[tuple[Case, tuple[Any, ...]]]:
    """Each case with its inputs; on a GPU the 16-bit ones come in float16 and in bfloat16."""
    for case in exercise.cases:
        args = case.make(Maker(SEED))
        yield case, args
        if device().type == "cuda" and _dtype_of(args) == torch.float16:
            yield case, case.make(Maker(SEED, half=torch.bfloat16))


def attempt(
    exercise: Exercise,
    function: Callable[..., Any],
    case: Case,
    inputs: tuple[Any, ...],
    *,
    guard_fill: float = math.nan,
    contiguous: bool = False,
    garbage: bool = True,
) -> Attempt:
    """Call ``function`` once on guarded copies of ``inputs`` (on contiguous ones if asked).

    guard_fill and garbage are those of ``Memory``.
    """
    memory = Memory(guard_fill, garbage)
    names = argument_names(exercise)
    args = tuple(
        memory.guard_input(value.contiguous() if contiguous else value, name, device())
        if isinstance(value, torch.Tensor)
        else value
        for value, name in zip(inputs, names, strict=False)
    )
    made = Attempt(case, args, expected(exercise, inputs), _dtype_of(inputs))
    try:
        with memory.watching(), exercise.watch() as seen:
            made.got = function(*args)
            if device().type == "cuda":
                torch.cuda.synchronize()  # so that a failing kernel fails here, not later
        made.remark = seen(*args)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        made.error = error
    with contextlib.suppress(RuntimeError):  # a crashed kernel leaves a GPU that answers nothing
        made.modified, made.faults = memory.modified_inputs(), memory.faults()
    made.undefined = memory.undefined
    return made


def expected(exercise: Exercise, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The reference's results, computed on the CPU in float64."""
    wide = (value.double() if is_float(value) else value for value in inputs)
    result = exercise.reference(*wide)
    return result if isinstance(result, tuple) else (result,)


def argument_names(exercise: Exercise) -> list[str]:
    """The parameters of the exercise's function, by name."""
    return list(inspect.signature(exercise.reference).parameters)


def tolerance(exercise: Exercise, dtype: torch.dtype | None) -> float:
    """The largest error allowed in this dtype; numbers must be exact."""
    return 0.0 if dtype is None else exercise.tolerance[dtype]


def wrong(got: Any, want: Any, allowed: float) -> torch.Tensor:
    """Which elements of ``got`` differ from ``want`` by more than ``allowed``: a boolean tensor.

    ``allowed`` is relative, to the element and to the root mean square of what is expected.
    """
    got, want = _wide(got), _wide(want)
    finite = want[want.isfinite()]
    scale = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    near = want.isfinite() & ((got - want).abs() <= allowed * (want.abs() + scale))
    return ~(near | (got == want) | (got.isnan() & want.isnan()))


def agrees(results: tuple[Any, ...], want: tuple[Any, ...], allowed: float) -> bool:
    """Whether every result has the expected shape and is near enough."""
    return len(results) == len(want) and all(
        _shape(got) == _shape(right) and not wrong(got, right, allowed).any()
        for got, right in zip(results, want, strict=True)
    )


def largest_error(got: Any, want: Any) -> float:
    """The largest difference, relative to the element and to the scale of what is expected.

    Infinite numbers are left out: they are right or wrong, and ``wrong`` says which.
    """
    got, want = _wide(got), _wide(want)
    got, want = got[want.isfinite()], want[want.isfinite()]
    if want.numel() == 0:
        return 0.0
    scale = float(want.square().mean().sqrt())
    return float(((got - want).abs() / (want.abs() + scale).clamp_min(1e-300)).max())


def _wide(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach().cpu().double()


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def is_float(value: Any) -> bool:
    """Whether it is a tensor of floating-point numbers."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _dtype_of(inputs: tuple[Any, ...]) -> torch.dtype | None:
    return next((value.dtype for value in inputs if is_float(value)), None)
