"""Lesson 09's pictures: every block of keys is read once, and a record becomes a chart."""

import pytest

from litellama.course import figures, splitting


@pytest.mark.parametrize("chats", splitting.CHATS)
@pytest.mark.parametrize("splits", [1, 3, 15, 64])
def test_every_block_is_read_once_and_no_multiprocessor_does_two_things(chats, splits):
    works = splitting.play(splitting.CHATS[chats], splits)
    assert sum(w.stop - w.start for w in works) == splitting.blocks_in_all(splitting.CHATS[chats])
    busy = {}
    for work in sorted(works, key=lambda work: work.start):
        assert work.start >= busy.get(work.multiprocessor, 0)
        busy[work.multiprocessor] = work.stop


def test_the_words_say_what_the_lesson_says():
    assert "8 programs with keys on 8 of 132" in splitting.describe("1 of 8,192", 1)
    assert "6% busy" in splitting.describe("1 of 8,192", 1)
    two, three = (splitting.finish(splitting.CHATS["8 of 4,096"], n) for n in (2, 3))
    assert three > two, "a second round"
    assert splitting.chosen(splitting.CHATS["8 mixed"]) == 2


def row(peer, rate):
    return {
        "kernel": "flash_decoding", "case": "B2", "dtype": "bfloat16", "gpu": "Some GPU",
        "shape": [[2, 8, 64], [2, 4, 100, 64], [2, 4, 100, 64]], "peer": peer, "date": "today",
        "bytes": 2 * 2 * 4 * 100 * 64 * 2, "gb_per_s": rate, "fraction_of_copy": rate / 3000,
    }  # fmt: skip


def test_a_record_is_drawn_with_its_best_peer_and_its_gpu():
    rows = [row("litellama", 2400), row("SDPA a", 1200), row("SDPA b", 1800)]
    (case,) = splitting.reached(rows)
    assert case.predicted == case.recorded
    assert (case.best_peer, case.peer_rate, round(case.copy)) == ("SDPA b", 1800, 3000)
    words = splitting.reached_alt(rows)
    assert "Some GPU, today" in words
    assert "SDPA b 1,800" in words
    assert figures.png(splitting.draw_reached(rows)).startswith(b"\x89PNG")
