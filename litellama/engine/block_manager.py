"""The KV-cache manager: who owns which block of the pool, and which blocks can be used again.

The pool is one tensor of fixed-size blocks; a sequence owns a list of them, its row of the block
table, and grows by one block at a time, so at most one block a sequence is partly empty.  Block
size 1 is token-level management (LightLLM's TokenAttention), 16 is PagedAttention's usual choice.

A full block is *published* under a key that stands for its tokens and all tokens before them.  A
new sequence starts with the published blocks that match its own keys: they are shared, and counted.
A block that nobody owns any more keeps its content until its memory is needed, the least recently
used first.  Every operation costs constant time a block.

Source: Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023,
arXiv:2309.06180; keys of blocks as in vLLM's automatic prefix caching.  Lesson 10 builds this file.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["used", "cached", "free"]
FIRST_PARENT = bytes(16)


def block_key(parent: bytes, tokens: Sequence[int], pictures: bytes = b"") -> bytes:
    """16 bytes that stand for a block's tokens and, through its parent's key, all before them.

    pictures: the keys of the pictures whose first token is in the block.

    A cryptographic hash of 128 bits: two different texts share a key only with a probability of
    about n^2 / 2^129 for n blocks, and nobody can make such texts on purpose.  So a match of keys
    is taken for a match of tokens.
    """
    return hashlib.blake2b(
        parent + array("q", tokens).tobytes() + pictures, digest_size=16
    ).digest()


@dataclass(frozen=True)
class BlockState:
    """One block, for drawing.

    state: "used" by ``owners`` (ids of requests), "cached" (nobody's, its content can be used
    again) or "free".
    """

    state: State
    owners: tuple[int, ...]
    references: int


class BlockManager:
    """A pool of ``num_blocks`` blocks of ``block_size`` tokens each; pure bookkeeping."""

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.prefix_caching = prefix_caching
        self.reset()

    def reset(self) -> None:
        """Free all blocks, and trust no content: at the start, and after a step that failed."""
        self._references = [0] * self.num_blocks
        self._keys = [b""] * self.num_blocks  # b"" where nothing is published
        self._published: dict[bytes, int] = {}
        # Blocks that nobody owns, the next to be taken first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(self.num_blocks))
        self._unwritten: set[int] = set()  # published, and filled by the step being scheduled

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns; some of them may hold content that can still be used again."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def extend_keys(
        self,
        keys: list[bytes],
        token_ids: Sequence[int],
        pictures: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """Extend ``keys`` in place to one for each full block of ``token_ids``.

        pictures: where each picture's first token is, and the picture's own key.
        """
        size = self.block_size
        if self.prefix_caching:
            for start in range(len(keys) * size, len(token_ids) - size + 1, size):
                parent, stop = keys[-1] if keys else FIRST_PARENT, start + size
                shown = b"".join(key for at, key in pictures if start <= at < stop)
                keys.append(block_key(parent, token_ids[start:stop], shown))

    def start(
        self, blocks: list[int], keys: Sequence[bytes], num_tokens: int, spare: int = 0
    ) -> int | None:
        """Fill the empty list ``blocks`` for a new sequence, published blocks first.

        Returns how many of the ``num_tokens`` tokens the published blocks hold; None, with nothing
        taken, when that would leave fewer than ``spare`` free blocks.
        """
        shared = self._match(keys, num_tokens)
        missing = self.blocks_for(num_tokens) - len(shared)
        if not missing and self._references[shared[-1]]:
            missing = 1  # for the copy that writing to the last block will need
        revived = sum(not self._references[block] for block in shared)
        if missing + spare > self.num_free - revived:
            return None
        for block in shared:
            self._free.pop(block, None)
            self._references[block] += 1
        blocks.extend(shared)
        self.grow(blocks, num_tokens)
        return len(shared) * self.block_size

    def grow(self, blocks: list[int], num_tokens: int) -> bool:
        """Extend ``blocks`` in place to hold ``num_tokens`` tokens.

        False, with nothing taken, when the pool has too few free blocks.
        """
        missing = self.blocks_for(num_tokens) - len(blocks)
        if missing > self.num_free:
            return False
        blocks.extend(self._take() for _ in range(missing))
        return True

    def copy_on_write(self, blocks: list[int]) -> tuple[int, int] | None:
        """Make the last of ``blocks`` safe to write: if others own it too, replace it by a new one.

        Returns (source, target), whose content must be copied before the write; None if no copy is
        needed.  The pool must have a free block, as it has after ``start``.
        """
        source = blocks[-1]
        if self._references[source] == 1:
            return None
        self._references[source] -= 1
        blocks[-1] = self._take()
        return source, blocks[-1]

    def publish(self, blocks: Sequence[int], keys: Sequence[bytes], num_tokens: int) -> None:
        """Let other sequences use the full blocks of a sequence's first ``num_tokens`` tokens.

        The step being scheduled, or an earlier one, must fill them.
        """
        full = first = min(num_tokens // self.block_size, len(keys))
        while first and not self._keys[blocks[first - 1]]:
            first -= 1
        for block, key in zip(blocks[first:full], keys[first:full], strict=True):
            self._keys[block] = key
            self._published.setdefault(key, block)
            self._unwritten.add(block)

    def new_step(self) -> None:
        """From here on, what was published before is filled by an earlier step."""
        self._unwritten.clear()

    def release(self, blocks: list[int]) -> None:
        """Give all of ``blocks`` back and empty the list; what is published stays in the cache."""
        # The end goes first: the beginning of a text is likelier to be shared.
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None
                if not self._is_cached(block):
                    self._free.move_to_end(block, last=False)  # nothing to keep: taken next
        blocks.clear()

    def slots(self, blocks: list[int], start: int, stop: int) -> list[int]:
        """The slots of tokens start..stop-1 of a sequence: block * block_size + offset."""
        size = self.block_size
        return [blocks[i // size] * size + i % size for i in range(start, stop)]

    def snapshot(self, tables: Mapping[int, Sequence[int]]) -> list[BlockState]:
        """The state of every block; tables: the blocks of each request, by its id."""
        owners: list[list[int]] = [[] for _ in range(self.num_blocks)]
        for request_id, blocks in tables.items():
            for block in blocks:
                owners[block].append(request_id)
        return [
            BlockState(self._state(block), tuple(owners[block]), references)
            for block, references in enumerate(self._references)
        ]

    def _match(self, keys: Sequence[bytes], num_tokens: int) -> list[int]:
        """The published blocks that a sequence with these keys can start with."""
        blocks = []
        for key in keys:
            if (block := self._published.get(key)) is None:
                break
            blocks.append(block)
        # With every token cached, the last one is still computed, for its logits, and so written:
        # to a copy.  Copies come first in a step, so what this very step fills cannot be copied.
        if len(blocks) * self.block_size == num_tokens and blocks[-1] in self._unwritten:
            blocks.pop()
        return blocks

    def _take(self) -> int:
        """A free block for one owner; content that nobody has used for longest is lost."""
        block, _ = self._free.popitem(last=False)
        if self._is_cached(block):
            del self._published[self._keys[block]]
        self._keys[block] = b""
        self._references[block] = 1
        return block

    def _state(self, block: int) -> State:
        if self._references[block]:
            return "used"
        return "cached" if self._is_cached(block) else "free"

    def _is_cached(self, block: int) -> bool:
        """Whether the block is found under its key; of two with equal content only one is."""
        return self._published.get(self._keys[block]) == block
