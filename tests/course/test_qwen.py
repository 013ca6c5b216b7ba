"""Lesson 12's widget: what norms on queries and keys do to scores and weights."""

import pytest
import torch

from litellama.course import figures, qwen


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_the_norms_take_the_scale_away_and_keep_the_scores_under_the_limit(head_dim):
    small, large = (qwen.last_token_scores(scale, 2.0, head_dim) for scale in (1.0, 16.0))
    torch.testing.assert_close(large[0], 256 * small[0])
    torch.testing.assert_close(large[1], small[1])
    assert large[1].abs().max() <= 2 * head_dim**0.5 < large[0].abs().max()


def test_keys_in_use_counts_equal_weights():
    assert qwen.keys_in_use(torch.zeros(7)) == pytest.approx(7)
    assert qwen.keys_in_use(torch.tensor([60.0, 0.0, 0.0])) == pytest.approx(1)


def test_the_words_say_what_the_picture_shows():
    words = qwen.score_growth_alt(3, 1, 64)
    plain, normed = qwen.last_token_scores(3, 1, 64)
    assert f"largest score {plain.abs().max():.3g}" in words
    assert f"{qwen.keys_in_use(normed):.1f} keys in use" in words
    assert figures.png(qwen.score_growth(3, 1, 64)).startswith(b"\x89PNG")
