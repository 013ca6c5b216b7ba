"""Memory that notices: guard zones around every tensor, and a watch on the interpreter's pointers.

A kernel that reads or writes past the end of a tensor is often right by luck, until the day it
crashes.  While a learner's function is checked,

- each input lies between two guard zones full of NaN, and so does each tensor that the function
  makes with ``torch.empty`` and its relatives, whose own elements start as a recognisable NaN: what
  was never written is known, and so is what was written outside;
- in Triton's interpreter every pointer that is loaded or stored is compared with the tensors'
  bounds, as ``compute-sanitizer`` does on a GPU;
- there, too, the lanes that a load's mask shuts out hold garbage where the load says no ``other``:
  what they hold is undefined, and the interpreter's zeros would often be right by luck.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

GUARD = 4096  # elements on each side; more than a block, so that a stray block lands in it

# Signalling NaNs: arithmetic turns them into quiet ones, so these bits mean "never written".
_POISON: dict[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float16: (torch.int16, 0x7D3A),
    torch.bfloat16: (torch.int16, 0x7FA5),
    torch.float32: (torch.int32, 0x7FA0DEAD),
    torch.float64: (torch.int64, 0x7FF4DEADDEADDEAD),
}
_EMPTY = {torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty}
_FILLED = {
    torch.zeros, torch.zeros_like, torch.ones, torch.ones_like, torch.full, torch.full_like,
    torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_full,
}  # fmt: skip


class OutOfBoundsError(IndexError):
    """A pointer far outside every tensor: following it could end the whole Python process."""


@dataclass(frozen=True)
class Fault:
    """An access outside a tensor: what did it, to which tensor, where."""

    action: str  # "load" or "store"
    tensor: str
    elements: int  # 0 when the count is not known
    side: str  # "past the end" or "before the start"
    program: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Block:
    """A guarded tensor: its buffer, and where in it (in elements) the tensor itself lies."""

    name: str
    buffer: torch.Tensor
    span: int

    def bounds(self) -> tuple[int, int, int, int]:
        """Addresses: the buffer's start, the tensor's start and end, the buffer's end."""
        start, size = self.buffer.data_ptr(), self.buffer.element_size()
        first = start + GUARD * size
        return start, first, first + self.span * size, start + self.buffer.numel() * size


class Memory:
    """The guarded tensors of one call.

    fill: what the guard zones of inputs hold.  garbage: whether masked lanes without ``other`` hold
    garbage; else they hold the interpreter's zeros.  undefined: the tensors from which such lanes
    were loaded, by name, in order.
    """

    def __init__(self, fill: float = float("nan"), garbage: bool = True):
        self._fill = fill
        self._garbage = garbage
        self.undefined: list[str] = []
        self._inputs: list[tuple[_Block, torch.Tensor]] = []  # with a copy of the buffer
        self._made: list[_Block] = []
        self._seen: dict[tuple[str, str, str], Fault] = {}

    def guard_input(self, tensor: torch.Tensor, name: str, device: torch.device) -> torch.Tensor:
        """Copy a tensor, strides and all, between guard zones on ``device``.

        The gaps between strided rows are filled like the guard zones.
        """
        span = _span(tensor)
        fill = self._fill if tensor.is_floating_point() else 0
        buffer = torch.full((span + 2 * GUARD,), fill, dtype=tensor.dtype, device=device)
        inside = buffer.as_strided(tensor.shape, tensor.stride(), GUARD)
        inside.copy_(tensor)
        self._inputs.append((_Block(name, buffer, span), buffer.clone()))
        return inside

    def modified_inputs(self) -> list[str]:
        """Names of the inputs whose elements, or the gaps between them, were changed."""
        inside = [(b, slice(GUARD, GUARD + b.span), old) for b, old in self._inputs]
        return [b.name for b, where, old in inside if not _same(b.buffer[where], old[where])]

    def faults(self) -> list[Fault]:
        """Accesses outside the tensors: as seen when they happened, else by their traces."""
        if self._seen:
            return list(self._seen.values())
        found = []
        originals = [(b, old) for b, old in self._inputs]
        originals += [(b, _poisoned(b.buffer)) for b in self._made]
        for block, old in originals:
            before, after = slice(0, GUARD), slice(GUARD + block.span, None)
            for side, zone in (("before the start", before), ("past the end", after)):
                changed = int((_bits(block.buffer[zone]) != _bits(old[zone])).sum())
                if changed:
                    found.append(Fault("store", block.name, changed, side))
        return found

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Guard what is made inside the block, and watch the interpreter's loads and stores."""
        # numpy, which the interpreter runs on, would warn of each overflow: check says it better.
        with _GuardedFactories(self), _watched_interpreter(self), np.errstate(all="ignore"):
            yield

    def guard_made(self, tensor: torch.Tensor, keep: bool) -> torch.Tensor:
        """Move a tensor that the function has just made between guard zones."""
        if tensor.dtype not in _POISON or tensor.numel() == 0:
            return tensor
        span = _span(tensor)
        buffer = _poisoned(torch.empty(span + 2 * GUARD, dtype=tensor.dtype, device=tensor.device))
        inside = buffer.as_strided(tensor.shape, tensor.stride(), GUARD)
        if keep:
            inside.copy_(tensor)
        self._made.append(_Block("the output", buffer, span))
        return inside

    def look(self, action: str, pointers: np.ndarray, program: tuple[int, ...], extra: Any) -> None:
        """Record the pointers (of lanes that the mask lets through) that leave their tensor."""
        unknown = np.ones(pointers.shape, dtype=bool)
        for block in [block for block, _ in self._inputs] + self._made:
            start, first, end, stop = block.bounds()
            mine = (pointers >= start) & (pointers < stop)
            unknown &= ~mine
            for side, wrong in (
                ("before the start", mine & (pointers < first)),
                ("past the end", mine & (pointers >= end)),
            ):
                if wrong.any():
                    key = (action, block.name, side)
                    fault = Fault(action, block.name, int(wrong.sum()), side, program)
                    self._seen.setdefault(key, fault)
        for start, stop in extra:
            unknown &= (pointers < start) | (pointers >= stop)
        if unknown.any():
            raise OutOfBoundsError(
                f"a {action} in program {program} goes to an address outside every tensor"
            )

    def spoil(self, loaded: np.ndarray, pointers: np.ndarray, shut_out: np.ndarray) -> None:
        """Fill lanes that a mask shut out of a load without ``other``, and note the tensor."""
        name = "a tensor of its own"
        for block in [block for block, _ in self._inputs] + self._made:
            start, _, _, stop = block.bounds()
            if ((pointers >= start) & (pointers < stop)).any():
                name = block.name
        if name not in self.undefined:
            self.undefined.append(name)
        if self._garbage:
            loaded[shut_out] = _garbage(loaded.dtype, int(shut_out.sum()))


def _garbage(dtype: np.dtype, count: int) -> np.ndarray:
    """Numbers that no reduction overlooks: NaN spoils a sum, but a maximum leaves NaN out."""
    values: tuple[Any, ...]
    if dtype.kind == "f":
        largest = np.finfo(dtype).max
        values = (np.nan, largest, -largest)
    elif dtype.kind in "iu":  # no place in any tensor, and yet a sum of some does not overflow
        most = np.iinfo(dtype).max
        values = (most >> 8 if dtype.itemsize > 2 else most,)  # in 16 bits it is bfloat16's NaN
    else:
        values = (True,)
    return np.resize(np.array(values, dtype=dtype), count)


class _GuardedFactories(TorchFunctionMode):
    def __init__(self, memory: Memory):
        super().__init__()
        self._memory = memory

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in _EMPTY or func in _FILLED:
            return self._memory.guard_made(result, keep=func in _FILLED)
        return result


@contextlib.contextmanager
def _watched_interpreter(memory: Memory) -> Iterator[None]:
    """Compare every pointer the interpreter follows with the tensors' bounds.

    These are Triton's internals: where a version has changed them, the guard zones alone remain.
    """
    try:
        from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

        load = InterpreterBuilder.create_masked_load
        store = InterpreterBuilder.create_masked_store
        bring_arguments = GridExecutor._init_args_hst
        has_other = list(inspect.signature(load).parameters)[3] == "other"
    except (ImportError, AttributeError, IndexError):
        yield
        return
    extra: list[tuple[int, int]] = []

    def look(action: str, builder: Any, pointers: Any, mask: Any) -> None:
        followed = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
        program = tuple(int(i) for i in getattr(builder, "grid_idx", ()) or ())
        memory.look(action, followed, program, extra)

    def watched_load(self, ptrs, mask, other, *rest, **how):
        look("load", self, ptrs, mask)
        loaded = load(self, ptrs, mask, other, *rest, **how)
        # Of a single lane nothing is known: Triton 3.6 to 3.9 take other=0 there for none.
        if has_other and other is None and ptrs.data.size > 1 and not mask.data.all():
            shut_out = ~np.broadcast_to(mask.data, ptrs.data.shape).astype(bool)
            memory.spoil(loaded.data, ptrs.data, shut_out)
        return loaded

    def watched_store(self, ptrs, value, mask, *rest, **how):
        look("store", self, ptrs, mask)
        return store(self, ptrs, value, mask, *rest, **how)

    def watched_arguments(self, args, kwargs):
        brought = bring_arguments(self, args, kwargs)
        for arg in [*brought[0], *brought[1].values()]:
            if isinstance(arg, torch.Tensor):
                storage = arg.untyped_storage()
                extra.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        return brought

    InterpreterBuilder.create_masked_load = watched_load
    InterpreterBuilder.create_masked_store = watched_store
    GridExecutor._init_args_hst = watched_arguments
    try:
        yield
    finally:
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store
        GridExecutor._init_args_hst = bring_arguments


def unwritten(tensor: torch.Tensor) -> torch.Tensor:
    """Which elements still hold what ``torch.empty`` gave: a boolean tensor of the same shape."""
    if tensor.dtype not in _POISON:
        return torch.zeros(tensor.shape, dtype=torch.bool)
    return (_bits(tensor.contiguous()) == _POISON[tensor.dtype][1]).cpu()


def _span(tensor: torch.Tensor) -> int:
    """Elements from the first to the last one of a strided tensor."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(_POISON[tensor.dtype][0]) if tensor.dtype in _POISON else tensor


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.equal(_bits(a), _bits(b)))


def _poisoned(like: torch.Tensor) -> torch.Tensor:
    integer, bits = _POISON[like.dtype]
    return torch.full((like.numel(),), bits, dtype=integer, device=like.device).view(like.dtype)
