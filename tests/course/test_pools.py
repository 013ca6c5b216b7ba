"""Lesson 10's moving picture: the same chats through slabs and through the engine's blocks."""

import pytest

from litellama.course import figures, pools


def kinds(slots):
    return [slot.kind for slot in slots]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_every_chat_ends_before_the_last_step(size):
    for pool in (pools.Slabs(), pools.Blocks(size)):
        _, running, waiting = pools.play(pool, pools.LAST_STEP)
        assert (running, waiting) == (0, 0)


def test_a_chat_waits_although_the_slabs_leave_room_enough():
    slots, running, waiting = pools.play(pools.Slabs(), 8)
    assert (running, waiting) == (1, 3)
    needed = pools.OPENING + pools.CHATS[3][1] + pools.MOST
    holes = "".join("." if kind == "free" else " " for kind in kinds(slots)).split()
    assert max(map(len, holes)) < needed < kinds(slots).count("free")
    _, running, waiting = pools.play(pools.Blocks(4), 8)
    assert (running, waiting) == (4, 0)


def test_the_blocks_show_what_is_shared_idle_and_cached():
    slots, running, _ = pools.play(pools.Blocks(4), 8)
    shared = [slot for slot in slots if len(slot.owners) > 1]
    assert len(shared) == pools.OPENING
    assert all(len(slot.owners) == running for slot in shared)
    assert kinds(slots).count("idle") < 4 * running
    assert "cached" in kinds(slots)
    assert "idle" not in kinds(pools.play(pools.Blocks(1), 8)[0])


def test_the_words_count_what_the_picture_shows():
    words = pools.describe(8, 4)
    assert words == (
        "Step 8. Slabs: 1 running, 3 waiting; 22 tokens, 1 idle, 41 free (the longest hole 21). "
        "Blocks of 4: 4 running, 0 waiting; 68 tokens in 44 slots, 8 idle, 12 cached."
    )
    assert figures.png(pools.draw(8, 4)) != figures.png(pools.draw(8, 8))
