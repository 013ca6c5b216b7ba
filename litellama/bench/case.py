"""What is compared: a case is one kernel on one set of inputs, a peer is one way to compute it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Inputs = tuple[Any, ...]


def as_they_are(*inputs: Any) -> Inputs:
    """The inputs of a case, for a peer that takes them in the case's own layout."""
    return inputs


@dataclass(frozen=True)
class Peer:
    """One implementation.

    call: takes what ``prepare`` makes of the case's inputs; preparing is not timed.
    compile: options for torch.compile, or None to call the function as it is.
    same_work: its result must be litellama's; False for one that does other work on purpose.
    flops: of that other work, where it differs from the case's.
    note: what a reader of the figures must know.
    """

    name: str
    call: Callable[..., Any]
    prepare: Callable[..., Inputs] = as_they_are
    compile: dict[str, Any] | None = None
    same_work: bool = True
    flops: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One kernel on inputs of one size; the first peer is litellama.

    group: the table that it belongs to.  label: its size, for people.
    make: its inputs on a device; floating-point tensors, which are then cast to the dtype.
    elements: how many elements the formula must read and write, whoever computes it.
    flops: operations, where these and not the memory are the limit.
    writes: whether it writes about as much as it reads (see ``timing.Flush``).
    """

    group: str
    kernel: str
    label: str
    make: Callable[[torch.device], tuple[torch.Tensor, ...]]
    elements: Callable[[tuple[torch.Tensor, ...]], int]
    peers: tuple[Peer, ...]
    flops: int | None = None
    writes: bool = True

    def inputs(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Its inputs on the device in the dtype."""
        return tuple(tensor.to(dtype) for tensor in self.make(device))

    def bytes_moved(self, inputs: tuple[torch.Tensor, ...]) -> int:
        """Bytes that must be read and written for these inputs."""
        return self.elements(inputs) * inputs[0].element_size()


def normal(
    device: torch.device | str, *shapes: tuple[int, ...], seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """A float32 tensor of random normal numbers for each shape, made on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, device=device) for shape in shapes)
