"""The pool's books: nothing lost, nothing owned twice."""

import random

import pytest

from litellama.engine.block_manager import BlockManager


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_no_block_is_lost_or_owned_twice(block_size):
    """Random growth and release: after each change every block is free or owned, exactly once."""
    rng = random.Random(block_size)
    manager = BlockManager(37, block_size)
    sequences: list[tuple[list[int], int]] = []
    for _ in range(500):
        if sequences and rng.random() < 0.4:
            manager.release(sequences.pop(rng.randrange(len(sequences)))[0])
        else:
            blocks: list[int] = []
            length = rng.randint(1, 9 * block_size)
            if manager.grow(blocks, length):
                sequences.append((blocks, length))
                assert len(blocks) == manager.blocks_for(length)
            else:
                assert blocks == []
        owned = [b for blocks, _ in sequences for b in blocks]
        assert len(owned) == len(set(owned))
        assert len(owned) + manager.num_free == 37


def test_a_sequence_grows_only_when_its_last_block_is_full():
    manager = BlockManager(4, 4)
    blocks: list[int] = []
    sizes = []
    for length in range(1, 10):
        assert manager.grow(blocks, length)
        sizes.append(len(blocks))
    assert sizes == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_grow_takes_nothing_when_the_pool_is_short():
    manager = BlockManager(3, 4)
    blocks: list[int] = []
    assert manager.grow(blocks, 5)
    assert not manager.grow(blocks, 13)
    assert (len(blocks), manager.num_free) == (2, 1)


def test_slots_follow_the_block_table():
    manager = BlockManager(10, 4)
    assert manager.slots([7, 2], 2, 7) == [30, 31, 8, 9, 10]
