"""Fill a model's parameters from a folder of safetensors, all of them or none."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from litellama.checkpoints.safetensors_files import (
    DTYPES,
    StoredTensor,
    few,
    open_checkpoint,
    read_tensor,
)
from litellama.errors import CheckpointError

Layout = dict[str, list[tuple[str, tuple[int, ...]]]]


class LoadableModel(Protocol):
    """What ``load_weights`` asks of a model, besides being a ``torch.nn.Module``."""

    def checkpoint_layout(self) -> Layout:
        """For each parameter, the checkpoint tensors that are stacked along dim 0 to make it."""
        ...

    def ignored_checkpoint_names(self) -> list[str | re.Pattern[str]]:
        """Checkpoint tensors that are allowed and not read: names, or patterns of whole names."""
        ...

    def checkpoint_name(self, name: str) -> str:
        """The layout's name for what a checkpoint calls ``name``: some come in two spellings."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...


@dataclass(frozen=True)
class Part:
    """Rows of a parameter, and the checkpoint tensor that fills them."""

    rows: torch.Tensor
    stored: StoredTensor


def load_weights(model: LoadableModel, folder: str | Path) -> None:
    """Fill ``model``'s parameters in place from ``folder``, in each parameter's dtype and device.

    Everything is checked before the first copy: the files (``open_checkpoint``), that each tensor
    the model needs is there in its exact shape and as float32, float16 or bfloat16, and that none
    is left over. Then each tensor is read straight into its rows of its parameter, so a fused
    matrix (q, k, v) never exists twice. Raises CheckpointError.
    """
    layout = model.checkpoint_layout()
    parameters = dict(model.named_parameters())
    _check_layout(layout, parameters)
    stored = _in_one_spelling(model, open_checkpoint(folder), folder)
    _check_coverage(layout, stored, model.ignored_checkpoint_names(), folder)
    parts: dict[Path, list[Part]] = {}
    for name, sources in layout.items():
        for part in _parts(parameters[name], sources, stored):
            parts.setdefault(part.stored.file, []).append(part)
    with torch.no_grad():
        for file, file_parts in parts.items():
            _copy(file, file_parts)


def _in_one_spelling(
    model: LoadableModel, stored: dict[str, StoredTensor], folder: str | Path
) -> dict[str, StoredTensor]:
    """The checkpoint's tensors by the layout's names."""
    named: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        ours = model.checkpoint_name(name)
        if ours in named:
            raise CheckpointError(
                f"{folder} has both {named[ours].name!r} and {name!r}: one tensor"
            )
        named[ours] = tensor
    return named


def _check_layout(layout: Layout, parameters: dict[str, torch.nn.Parameter]) -> None:
    """A mistake here is the model's, not the user's; an unfilled parameter must still be loud."""
    if wrong := sorted(layout.keys() ^ parameters.keys()):
        raise CheckpointError(f"checkpoint_layout() and the parameters differ in {few(wrong)}")
    for name, sources in layout.items():
        shape = tuple(parameters[name].shape)
        rows = sum(source[1][0] for source in sources)
        if any((rows, *source[1][1:]) != shape for source in sources):
            raise CheckpointError(
                f"checkpoint_layout() stacks {sources} to make {name!r}, which has shape {shape}"
            )
        if parameters[name].is_meta:
            raise CheckpointError(f"{name!r} is on the meta device: allocate the model first")


def _check_coverage(
    layout: Layout,
    stored: dict[str, StoredTensor],
    ignored: list[str | re.Pattern[str]],
    folder: str | Path,
) -> None:
    wanted = {name: shape for sources in layout.values() for name, shape in sources}
    if odd := sorted(n for n in wanted.keys() & stored.keys() if stored[n].dtype not in DTYPES):
        raise CheckpointError(
            f"{stored[odd[0]].file}: {few(odd)} is stored as {stored[odd[0]].dtype}, and only "
            f"{', '.join(DTYPES)} are read: use a version of this model that is not quantised"
        )
    if missing := sorted(wanted.keys() - stored.keys()):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the {len(wanted)} tensors that its config.json asks "
            f"for: {few(missing)}. Is the config.json the one of these weights?"
        )
    extra = [name for name in stored if name not in wanted and not is_ignored(name, ignored)]
    if extra:
        raise CheckpointError(
            f"{folder} has {len(extra)} tensors that its config.json leaves no place for: "
            f"{few(sorted(extra))}. Is the config.json the one of these weights?"
        )
    wrong = [name for name in wanted if stored[name].shape != wanted[name]]
    if wrong:
        details = [
            f"{name} is {list(stored[name].shape)} and must be {list(wanted[name])}"
            for name in sorted(wrong)
        ]
        raise CheckpointError(
            f"{folder} has tensors whose shape does not fit its config.json: {few(details)}"
        )


def is_ignored(name: str, ignored: list[str | re.Pattern[str]]) -> bool:
    """Whether a checkpoint's tensor is one of those that a model does not need."""
    return any(
        name == rule if isinstance(rule, str) else rule.fullmatch(name) is not None
        for rule in ignored
    )


def _parts(
    parameter: torch.nn.Parameter,
    sources: list[tuple[str, tuple[int, ...]]],
    stored: dict[str, StoredTensor],
) -> Iterator[Part]:
    first = 0
    for name, shape in sources:
        yield Part(parameter.detach()[first : first + shape[0]], stored[name])
        first += shape[0]


def _copy(file: Path, parts: list[Part]) -> None:
    """Read one file's tensors into their rows, through a buffer only where a cast or a GPU asks."""
    with file.open("rb", buffering=0) as opened:
        # In the file's order, so that a disk reads forward.
        for part in sorted(parts, key=lambda part: part.stored.start):
            rows, dtype = part.rows, DTYPES[part.stored.dtype]
            if rows.device.type == "cpu" and rows.dtype == dtype and rows.is_contiguous():
                read_tensor(opened, part.stored, rows)
            else:
                buffer = torch.empty(part.stored.shape, dtype=dtype)
                read_tensor(opened, part.stored, buffer)
                rows.copy_(buffer)
