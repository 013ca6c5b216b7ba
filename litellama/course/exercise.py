"""What an exercise is made of: its reference, its cases, the mistakes it knows, its hints."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

# Largest error allowed, relative to the expected value and to the scale of the expected result.
# One rounding of a right answer costs half of 2^-11 in float16 and of 2^-8 in bfloat16.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


class Maker:
    """Makes a case's inputs: the same ones for the same seed, on every machine.

    ``half`` is the 16-bit type of the run.  It is float16, and on a GPU every case that uses it is
    run again with bfloat16 (which Triton's interpreter does not compute correctly).
    """

    def __init__(self, seed: int, half: torch.dtype = torch.float16):
        self.half = half
        self._generator = torch.Generator().manual_seed(seed)

    def normal(
        self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, mean: float = 0.0
    ) -> torch.Tensor:
        """Normally distributed numbers of the given shape, drawn in float32 and then rounded."""
        return (torch.randn(shape, generator=self._generator) * scale + mean).to(dtype)

    def full(self, *shape: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """One number, everywhere."""
        return torch.full(shape, value, dtype=dtype)


@dataclass(frozen=True)
class Case:
    """One call of the learner's function.

    label: what is special about it, in words.  ragged: the sizes are not multiples of any block,
    so that masks matter.
    """

    label: str
    make: Callable[[Maker], tuple[Any, ...]]
    ragged: bool = False


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people really write.

    name: short, in the words of a test report.  function: the wrong answer itself, in plain torch,
    with the exercise's signature.  diagnosis: what to print when a learner's results agree with it.
    """

    name: str
    function: Callable[..., Any]
    diagnosis: str


@dataclass(frozen=True)
class Remark:
    """What is wrong with the way an answer computes, whatever its results.

    name and diagnosis: as of a ``Mistake``.  first: it explains wrong results better than a known
    mistake that they look like.
    """

    name: str
    diagnosis: str
    first: bool = False


# A block inside which the answer runs; what it gives is called afterwards, with the arguments.
Watch = Callable[[], AbstractContextManager[Callable[..., Remark | None]]]


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    name: what the learner passes to ``check``; a kernel's own name where it rebuilds that kernel.
    lesson: the notebook's name, without its ending.  difficulty: 1 to 5.  minutes: for a reader who
    has done the lesson.  reference: the right answer in plain torch; it is called with float64
    tensors.  outputs: a name for each result.  tolerance: by dtype.  watch: looks at how the answer
    computes, where the results do not tell.
    """

    name: str
    lesson: str
    title: str
    difficulty: int
    minutes: int
    reference: Callable[..., Any]
    cases: tuple[Case, ...]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    tolerance: dict[torch.dtype, float] = field(default_factory=lambda: TOLERANCE)
    watch: Watch = lambda: nullcontext(lambda *args: None)
