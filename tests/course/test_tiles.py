"""Lesson 08's counter and pictures say what is so."""

from math import exp

import pytest
import torch

from litellama.course import tiles


def test_counted_memory_counts_what_crosses():
    memory = tiles.CountedMemory()
    x = torch.zeros(8, 4)
    tile = memory.load(x, slice(2, 5))
    memory.store(x, slice(0, 2), tile[:2] + 1)
    assert (memory.read, memory.written, memory.moved) == (48, 32, 80)
    assert x.sum() == 8


@pytest.mark.parametrize("version", [1, 2])
def test_every_tile_that_somebody_sees_comes_once(version):
    path = tiles.order(version)
    assert sorted(path) == [(i, j) for i in range(4) for j in range(i + 1)]
    assert len(path) == tiles.STEPS


@pytest.mark.parametrize("version", [1, 2])
def test_the_last_tile_leaves_attention(version):
    rows, _, _ = tiles.play(version, tiles.STEPS)
    for query, row in enumerate(rows):
        weights = [exp(score) for score in tiles.SCORES[query][: query + 1]]
        values = tiles.VALUES[: query + 1]
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert row.weighted / row.total == pytest.approx(expected)


def test_traffic_is_that_of_the_two_loops():
    # Version 1: k and v of 4 columns, and for 10 tiles q and out, which is written again.
    assert tiles.play(1, tiles.STEPS)[1:] == (4 * 2 + 10 * 2, 10)
    # Version 2: 4 blocks of q, and for 10 tiles k and v; 4 blocks of out.
    assert tiles.play(2, tiles.STEPS)[1:] == (4 + 10 * 2, 4)


def test_a_picture_says_what_it_shows():
    assert tiles.describe(8, 2) == (
        "Version 2, tile 8 of 10: queries 12 to 15 take keys 4 to 7. Query 12: maximum 2 → 2.7, "
        "sum 2.05 × 0.5 + 1.68 = 2.70. So far 20 blocks read, 3 written."
    )
    assert "35% of 4,096 rows" in tiles.padding_alt([300, 512, 40, 9, 122, 350, 64, 18])
    for version in (1, 2):
        for tile in range(1, tiles.STEPS + 1):
            assert tiles.draw(tile, version).axes


def test_recorded_rates_are_those_of_one_case(monkeypatch, capsys):
    row = {
        "case": "hd128 T4096", "dtype": "bfloat16", "gpu": "Some GPU", "date": "2026-11-22",
        "peer": "litellama", "tflop_per_s": 400.0, "fraction_of_matmul": 0.5,
    }  # fmt: skip
    other = row | {"case": "hd64 T4096"}
    bytes_only = {key: value for key, value in row.items() if key != "tflop_per_s"}
    monkeypatch.setattr(tiles, "recorded", lambda kernel: [other, bytes_only, row])
    rates = tiles.recorded_rates("flash_attention", "hd128 T4096")
    assert rates == tiles.Rates({"litellama": 400.0}, 800.0, "Some GPU, recorded 2026-11-22")
    shown = []
    monkeypatch.setattr(tiles, "show", lambda figure, alt: shown.append(alt))
    tiles.show_rates("Attention", rates)
    assert shown == [
        "Attention, Some GPU, recorded 2026-11-22, in TFLOP/s: litellama 400; a matrix product 800."
    ]
    assert tiles.recorded_rates("flash_attention", "another") is None
    tiles.show_rates("Attention", None)
    assert "no figures are recorded yet" in capsys.readouterr().out
