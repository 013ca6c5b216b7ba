"""What attention must know about one step: whose tokens these are, and where their keys lie.

A step packs the new tokens of several sequences into one [total_tokens] axis with no padding.
``AttentionBatch`` says where each sequence's queries start, how long each sequence is, and in which
blocks of the KV cache its keys and values are kept.  Lesson 10 builds the manager behind it.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from litellama.kernels.backend import require


@dataclass(frozen=True)
class AttentionBatch:
    """One step's sequences; S sequences, T new tokens in all, tensors on the model's device.

    query_starts: int32 [S + 1]; sequence s owns packed rows query_starts[s] : query_starts[s + 1].
    seq_lens: int32 [S]; keys of each sequence, those of this step included.
    block_table: int32 [S, max_blocks]; the blocks of each sequence in order; unused entries are 0.
    slots: int64 [T]; where each new token's key and value go: block * block_size + offset.
    block_size: tokens in a block.
    max_query_len, max_seq_len: the largest of each, or more, known without asking the GPU.
    """

    query_starts: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slots: torch.Tensor
    block_size: int
    max_query_len: int
    max_seq_len: int

    def __post_init__(self) -> None:
        """Refuse tables that the kernels would misread: they take rows of int32, side by side."""
        tables = (self.query_starts, self.seq_lens, self.block_table)
        require(
            all(x.dtype == torch.int32 and x.device == self.slots.device for x in tables)
            and all(x.stride(-1) == 1 or x.shape[-1] < 2 for x in tables),
            lambda: (
                "AttentionBatch needs query_starts, seq_lens and block_table in int32, on the "
                "device of slots and with a dense last axis, got "
                + ", ".join(f"{x.dtype} {x.device} strides {x.stride()}" for x in tables)
                + f", and slots on {self.slots.device}"
            ),
        )

    @property
    def is_decode(self) -> bool:
        """True when every sequence brings exactly one new token."""
        return self.max_query_len == 1 and self.slots.shape[0] == self.seq_lens.shape[0]

    @cached_property
    def is_key(self) -> torch.Tensor:
        """bool [S, max_seq_len]: whether a sequence has an i-th key."""
        return torch.arange(self.max_seq_len, device=self.slots.device) < self.seq_lens[:, None]

    @cached_property
    def without_keys(self) -> torch.Tensor | None:
        """int64 [n]: the sequences that have no keys; None if there is none, as in most steps."""
        empty = (self.seq_lens == 0).nonzero()[:, 0]
        return empty if len(empty) else None

    @cached_property
    def key_slots(self) -> torch.Tensor:
        """int64 [S, max_seq_len]: the slot of each sequence's i-th key, for the torch kernels.

        Past a sequence's end the slot of its first key stands in, so that what is read there is
        always a real key and never uninitialised memory.
        """
        position = torch.arange(self.max_seq_len, device=self.slots.device)
        position = torch.where(self.is_key, position, 0)
        blocks = self.block_table.long().gather(1, position // self.block_size)
        return blocks * self.block_size + position % self.block_size

    @cached_property
    def key_run(self) -> slice | None:
        """The slots of a lone sequence's keys, if its blocks lie side by side: no copy is needed.

        The usual case of one chat on a CPU, where gathering keys costs more than attending to them.
        """
        length = int(self.seq_lens[0]) if len(self.seq_lens) == 1 else 0
        if length == 0:
            return None
        blocks = self.block_table[0, : -(-length // self.block_size)].tolist()
        if blocks != list(range(blocks[0], blocks[0] + len(blocks))):
            return None
        start = blocks[0] * self.block_size
        return slice(start, start + length)
