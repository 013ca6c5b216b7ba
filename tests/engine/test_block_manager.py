"""The pool's books: nothing lost, nothing owned twice by accident, no shared block written."""

import random
from dataclasses import dataclass, field

import pytest

from litellama.engine.block_manager import BlockManager, block_key


@dataclass(eq=False)
class Sequence:
    """A text, its blocks, and how many of its tokens are written."""

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    written: int = 0

    def publish(self, manager: BlockManager) -> None:
        manager.extend_keys(self.keys, self.tokens)
        manager.publish(self.blocks, self.keys, self.written)


def begin(manager: BlockManager, tokens: list[int]) -> tuple[Sequence, int | None]:
    """A new sequence, and how many of its tokens were found."""
    sequence = Sequence(list(tokens))
    manager.extend_keys(sequence.keys, tokens)
    return sequence, manager.start(sequence.blocks, sequence.keys, len(tokens))


def write_all(manager: BlockManager, sequence: Sequence) -> None:
    """One step fills all of a sequence's blocks."""
    sequence.written = len(sequence.tokens)
    sequence.publish(manager)
    manager.new_step()


def states(manager: BlockManager) -> list[str]:
    return [b.state for b in manager.snapshot({})]


@pytest.mark.parametrize("caching", [True, False], ids=["caching", "no_caching"])
@pytest.mark.parametrize("block_size", [1, 2, 4, 16])
def test_random_traffic_keeps_every_text_readable(block_size, caching):
    """Texts with common beginnings come, grow, copy on write and go; a memory of tokens tells."""
    rng = random.Random(block_size)
    manager = BlockManager(40, block_size, caching)
    memory: dict[int, int] = {}
    beginnings = [[rng.randrange(2) for _ in range(100)] for _ in range(3)]
    alive: list[Sequence] = []
    copies = reused = refused = 0

    def write(sequence: Sequence) -> None:
        start, stop = sequence.written, len(sequence.tokens)
        for i, slot in enumerate(manager.slots(sequence.blocks, start, stop), start):
            memory[slot] = sequence.tokens[i]
        sequence.written = stop
        sequence.publish(manager)

    for _ in range(3000):
        action = rng.random()
        if action < 0.2 and alive:
            manager.release(alive.pop(rng.randrange(len(alive))).blocks)
        elif action < 0.6 and alive:
            sequence = rng.choice(alive)
            more = [rng.randrange(2) for _ in range(rng.randint(1, block_size + 1))]
            if manager.grow(sequence.blocks, len(sequence.tokens) + len(more)):
                sequence.tokens += more
                write(sequence)
        else:
            length = rng.choice([1, 2, 3, 4]) * block_size + rng.choice([0, 0, 1, -1])
            sequence, found = begin(manager, rng.choice(beginnings)[: max(length, 1)])
            if found is None:
                refused += 1
                assert sequence.blocks == []
                continue
            reused += found
            sequence.written = found
            if found == len(sequence.tokens):
                sequence.written -= 1
                if copy := manager.copy_on_write(sequence.blocks):
                    copies += 1
                    for source, target in zip(
                        *(manager.slots([b], 0, block_size) for b in copy), strict=True
                    ):
                        memory[target] = memory[source]
            write(sequence)
            alive.append(sequence)
        manager.new_step()
        owned = [b for s in alive for b in s.blocks]
        snapshot = manager.snapshot({i: s.blocks for i, s in enumerate(alive)})
        assert all(b.references == len(b.owners) for b in snapshot)
        assert len(set(owned)) + manager.num_free == 40
        for s in alive:
            assert len(s.blocks) == manager.blocks_for(len(s.tokens))
            assert [memory[slot] for slot in manager.slots(s.blocks, 0, len(s.tokens))] == s.tokens
    assert refused
    assert bool(copies) == bool(reused) == caching


def test_a_sequence_grows_only_when_its_last_block_is_full():
    manager = BlockManager(4, 4)
    blocks: list[int] = []
    sizes = []
    for length in range(1, 10):
        assert manager.grow(blocks, length)
        sizes.append(len(blocks))
    assert sizes == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_grow_and_start_take_nothing_when_the_pool_is_short():
    manager = BlockManager(3, 4)
    blocks: list[int] = []
    assert manager.grow(blocks, 5)
    assert not manager.grow(blocks, 13)
    assert (len(blocks), manager.num_free) == (2, 1)
    assert manager.start([], [], 5) is None
    assert manager.num_free == 1


def test_slots_follow_the_block_table():
    manager = BlockManager(10, 4)
    assert manager.slots([7, 2], 2, 7) == [30, 31, 8, 9, 10]


def test_a_lone_sequence_gets_blocks_side_by_side_again_and_again():
    """Attention on a CPU reads such keys with no copy."""
    manager = BlockManager(20, 4)
    for turn in range(3):
        sequence, _ = begin(manager, list(range(9 + 4 * turn)))
        assert sequence.blocks == list(range(len(sequence.blocks)))
        write_all(manager, sequence)
        manager.release(sequence.blocks)


def test_full_blocks_are_shared_and_the_rest_is_not():
    manager = BlockManager(10, 4)
    first, found = begin(manager, [1, 2, 3, 4, 5, 6])
    assert found == 0
    write_all(manager, first)
    second, found = begin(manager, [1, 2, 3, 4, 5, 6, 7])
    assert found == 4
    assert second.blocks[0] == first.blocks[0]
    assert second.blocks[1] != first.blocks[1]
    other, found = begin(manager, [1, 2, 3, 9, 5, 6, 7])
    assert found == 0
    assert not set(other.blocks) & set(first.blocks)


def test_equal_tokens_after_different_ones_are_not_the_same_block():
    manager = BlockManager(10, 2)
    first, _ = begin(manager, [1, 2, 7, 8])
    write_all(manager, first)
    _, found = begin(manager, [3, 4, 7, 8, 9])
    assert found == 0


def test_what_is_written_but_not_published_is_not_found():
    manager = BlockManager(10, 2)
    sequence, _ = begin(manager, [1, 2, 3, 4])
    sequence.written = 3
    sequence.publish(manager)
    assert begin(manager, [1, 2, 3, 4, 5])[1] == 2


def test_released_content_is_kept_until_its_memory_is_needed_the_oldest_first():
    manager = BlockManager(6, 2)
    texts = [[1, 1, 1, 1], [2, 2, 2, 2]]
    for text in texts:
        sequence, _ = begin(manager, text)
        write_all(manager, sequence)
        manager.release(sequence.blocks)
    assert manager.num_free == 6
    assert sorted(states(manager)) == ["cached"] * 4 + ["free"] * 2
    used, found = begin(manager, [*texts[0], 5])  # makes the first text the one used last
    assert found == 4
    manager.release(used.blocks)
    taken: list[int] = []
    manager.grow(taken, 2 * 3)  # two free blocks, and the end of the second text
    manager.release(taken)
    assert begin(manager, [*texts[1], 5])[1] == 2
    assert begin(manager, [*texts[0], 5])[1] == 4


def test_the_end_of_a_text_is_lost_before_its_beginning():
    manager = BlockManager(4, 2)
    sequence, _ = begin(manager, [1, 2, 3, 4, 5, 6, 7, 8])
    write_all(manager, sequence)
    manager.release(sequence.blocks)
    taken: list[int] = []
    manager.grow(taken, 4)
    assert begin(manager, [1, 2, 3, 4, 9])[1] is None
    manager.release(taken)
    assert begin(manager, [1, 2, 3, 4, 9])[1] == 4


def test_a_fully_cached_text_copies_its_last_block_only_if_another_owns_it():
    manager = BlockManager(6, 2)
    first, _ = begin(manager, [1, 2, 3, 4])
    write_all(manager, first)
    second, found = begin(manager, [1, 2, 3, 4])
    assert found == 4
    last = first.blocks[-1]
    assert manager.copy_on_write(second.blocks) == (last, second.blocks[-1])
    assert first.blocks[0] == second.blocks[0]
    assert first.blocks[1] != second.blocks[1]
    manager.release(first.blocks)
    manager.release(second.blocks)
    third, found = begin(manager, [1, 2, 3, 4])
    assert (found, third.blocks[-1]) == (4, last)
    assert manager.copy_on_write(third.blocks) is None, "nobody else owns it"


def test_a_copy_needs_a_free_block():
    manager = BlockManager(2, 2)
    first, _ = begin(manager, [1, 2, 3, 4])
    write_all(manager, first)
    assert begin(manager, [1, 2, 3, 4])[1] is None
    manager.release(first.blocks)
    assert begin(manager, [1, 2, 3, 4])[1] == 4


def test_what_the_same_step_fills_is_shared_but_never_copied():
    manager = BlockManager(8, 2)
    first, _ = begin(manager, [1, 2, 3, 4])
    first.written = 4
    first.publish(manager)
    second, found = begin(manager, [1, 2, 3, 4])
    assert found == 2
    assert second.blocks[0] == first.blocks[0]
    manager.new_step()
    assert begin(manager, [1, 2, 3, 4])[1] == 4


def test_of_two_blocks_with_equal_content_either_may_go():
    manager = BlockManager(4, 2)
    first, second = Sequence([1, 2]), Sequence([1, 2])
    for sequence in (first, second):
        manager.grow(sequence.blocks, 2)
    for sequence in (first, second):
        write_all(manager, sequence)
    manager.release(second.blocks)
    assert begin(manager, [1, 2, 3])[1] == 2
    assert states(manager).count("cached") == 0, "the second cannot be found: it is free"


def test_nothing_is_found_after_reset_or_without_prefix_caching():
    manager = BlockManager(6, 2)
    sequence, _ = begin(manager, [1, 2, 3])
    write_all(manager, sequence)
    manager.release(sequence.blocks)
    manager.reset()
    assert states(manager) == ["free"] * 6
    assert begin(manager, [1, 2, 3])[1] == 0
    plain = BlockManager(6, 2, prefix_caching=False)
    sequence, _ = begin(plain, [1, 2, 3])
    write_all(plain, sequence)
    assert begin(plain, [1, 2, 3])[1] == 0


def test_keys_stand_for_the_whole_text_and_for_the_pictures_in_it():
    """A picture changes the keys from the block of its first token on, and none before it."""
    manager = BlockManager(1, 2)
    cat, dog = b"picture of a cat", b"picture of a dog"
    shown = {
        "none": [], "cat": [(0, cat)], "dog": [(0, dog)], "late": [(2, cat)],
        "both": [(0, cat), (1, dog)], "swapped": [(0, dog), (1, cat)],
        "apart": [(0, cat), (3, dog)], "beyond": [(4, cat)],
    }  # fmt: skip
    keys: dict[str, list[bytes]] = {}
    for name, pictures in shown.items():
        keys[name] = []
        manager.extend_keys(keys[name], [1, 2, 3, 4, 5], pictures)
        assert len(keys[name]) == 2
    assert keys["beyond"] == keys["none"]
    assert keys["late"][0] == keys["none"][0]
    assert keys["apart"][0] == keys["cat"][0]
    assert len({keys[name][0] for name in ("none", "cat", "dog", "both", "swapped")}) == 5
    assert len({key[1] for key in keys.values()}) == 7
    grown = list(keys["none"])
    manager.extend_keys(grown, [1, 2, 3, 4, 5, 6])
    assert grown == [*keys["none"], block_key(keys["none"][1], [5, 6])]


def test_the_snapshot_names_owners_and_counts_references():
    manager = BlockManager(5, 2)
    first, _ = begin(manager, [1, 2, 3])
    write_all(manager, first)
    second, _ = begin(manager, [1, 2, 4])
    shared, own, *_ = manager.snapshot({7: first.blocks, 9: second.blocks})
    assert (shared.state, shared.owners, shared.references) == ("used", (7, 9), 2)
    assert (own.state, own.owners, own.references) == ("used", (7,), 1)
    manager.release(first.blocks)
    manager.release(second.blocks)
    assert states(manager) == ["cached", "free", "free", "free", "free"]
