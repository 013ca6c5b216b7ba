"""The same values laid out differently in memory, among NaN that no kernel may read.

An element of NaN that is read shows in the result.  Integers (block tables, lengths, slots) have 0
in its place: a block that belongs to nobody and is full of NaN, or a length that is wrong.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def _filler(x: torch.Tensor) -> float:
    return torch.nan if x.is_floating_point() else 0


def guarded(x: torch.Tensor) -> torch.Tensor:
    """Dense and aligned, with NaN before and after."""
    return F.pad(x.flatten(), (64, 64), value=_filler(x))[64:-64].view(x.shape)


def misaligned(x: torch.Tensor) -> torch.Tensor:
    """Dense, starting at an address that is no multiple of 16 bytes."""
    return F.pad(x.flatten(), (65, 64), value=_filler(x))[65:-64].view(x.shape)


def sliced(x: torch.Tensor) -> torch.Tensor:
    """A slice, along every axis, of something larger."""
    padded = F.pad(x, (3, 2) * x.ndim, value=_filler(x))
    return padded[tuple(slice(3, -2) for _ in range(x.ndim))]


def every_other_row(x: torch.Tensor) -> torch.Tensor:
    """Every second entry of the first axis."""
    return torch.stack([x, torch.full_like(x, _filler(x))], dim=1).flatten(0, 1)[::2]


def every_other_column(x: torch.Tensor) -> torch.Tensor:
    """Every second entry of the last axis: neighbours are not side by side."""
    return torch.stack([x, torch.full_like(x, _filler(x))], dim=-1).flatten(-2)[..., ::2]


def transposed(x: torch.Tensor) -> torch.Tensor:
    """The first axis dense in place of the last."""
    axes = tuple(reversed(range(x.ndim)))
    return x.permute(axes).contiguous().permute(axes)


def expanded(x: torch.Tensor) -> torch.Tensor:
    """One row for all (other values than those of ``x``), of stride 0."""
    return x[:1].clone().expand(x.shape)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    layout.__name__: layout
    for layout in (
        guarded, misaligned, sliced, every_other_row, every_other_column, transposed, expanded,
    )
}  # fmt: skip
