"""The KV-cache manager: which blocks of the pool are free, and where a token's slot is.

The pool is one tensor of fixed-size blocks; a sequence owns a list of them, its row of the block
table, and grows by one block at a time, so at most one block a sequence is partly empty.  Block
size 1 is token-level management (LightLLM's TokenAttention), 16 is PagedAttention's usual choice.
Source: Kwon et al., 2023, arXiv:2309.06180.  Lesson 10 builds this file.
"""


class BlockManager:
    """A pool of ``num_blocks`` blocks of ``block_size`` tokens each; pure bookkeeping."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        # A stack: the block freed last is taken first, while its memory may still be in a cache.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def grow(self, blocks: list[int], num_tokens: int) -> bool:
        """Extend ``blocks`` in place to hold ``num_tokens`` tokens.

        False, with nothing taken, when the pool has too few free blocks.
        """
        missing = self.blocks_for(num_tokens) - len(blocks)
        if missing > self.num_free:
            return False
        blocks.extend(self._free.pop() for _ in range(missing))
        return True

    def release(self, blocks: list[int]) -> None:
        """Give all of ``blocks`` back and empty the list."""
        self._free.extend(reversed(blocks))
        blocks.clear()

    def slots(self, blocks: list[int], start: int, stop: int) -> list[int]:
        """The slots of tokens start..stop-1 of a sequence: block * block_size + offset."""
        size = self.block_size
        return [blocks[i // size] * size + i % size for i in range(start, stop)]
