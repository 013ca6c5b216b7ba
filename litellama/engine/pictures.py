"""Pictures among the words: which rows of a step stand for parts of them, and with what features.

A picture's tokens are tokens like any other to the scheduler and the cache.  Only where a prompt is
computed, their embeddings are replaced by the vision tower's features, which are kept from the
first step that needs them to the last.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

Encoder = Callable[[torch.Tensor], torch.Tensor]


@dataclass(eq=False)
class Picture:
    """A picture of a prompt.

    pixels: float32 [3, S, S] on the CPU.  start, num_tokens: where its tokens are in the prompt.
    key: 16 bytes that stand for the pixels.  features: [num_tokens, hidden] while they are needed.
    """

    pixels: torch.Tensor
    start: int
    num_tokens: int
    key: bytes
    features: torch.Tensor | None = None


def picture_features(
    spans: Iterable[tuple[int, int, Sequence[Picture]]], encode: Encoder, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Rows int64 [n] of a packed step, and the features [n, hidden] that belong there.

    spans: for each sequence of the step, the positions start to before stop that are computed, and
    the pictures of its prompt.  encode: pixels [m, 3, S, S] to features [m, num_tokens, hidden]; it
    runs once, for all pictures that have no features yet.  None if no row belongs to a picture.
    """
    parts, row = [], 0
    for start, stop, pictures in spans:
        for p in pictures:
            first, last = max(start, p.start), min(stop, p.start + p.num_tokens)
            if first < last:
                parts.append((p, row + first - start, first - p.start, last - p.start))
        row += stop - start
    if not parts:
        return None
    encode_missing([p for p, *_ in parts], encode, device)
    rows = torch.cat([torch.arange(at, at + last - first) for _, at, first, last in parts])
    values = [p.features[first:last] for p, _, first, last in parts if p.features is not None]
    for p, _, _, last in parts:
        if last == p.num_tokens:
            p.features = None  # computed: from now on the cache has what is needed of it
    return rows.to(device), torch.cat(values)


def encode_missing(pictures: Sequence[Picture], encode: Encoder, device: torch.device) -> None:
    """Fill in ``features`` where there are none; the same picture of two prompts runs once."""
    missing = {p.key: p.pixels for p in pictures if p.features is None}
    if not missing:
        return
    found = dict(zip(missing, encode(torch.stack(list(missing.values())).to(device)), strict=True))
    for p in pictures:
        if p.features is None:
            p.features = found[p.key]
