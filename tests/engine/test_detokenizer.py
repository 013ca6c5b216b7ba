"""Streaming text: whole characters, no stop string, and pieces that join to the text."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from litellama.engine.detokenizer import Detokenizer

TEXTS = [
    "hello hello, world",
    "naïve café — “quotes”",
    "你好,世界。",
    "👩‍👩‍👧‍👦 family, 🇩🇪 flag, é combining",
    "tabs\tand\n\nnew lines   and spaces ",
    "अनुवाद עברית ไทย",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_llama)


def stream(tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, [], stop)
    pieces = [detokenizer.push(i) for i in ids]
    return [*pieces, detokenizer.finish()], detokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_and_never_show_half_a_character(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces, detokenizer = stream(tokenizer, ids)
    assert "".join(pieces) == detokenizer.text == text
    assert "\ufffd" not in "".join(pieces)
    assert len([p for p in pieces if p]) > len(text.split()), "text must come piece by piece"


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_the_same_with_the_default_model(smollm2, text):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(smollm2)
    pieces, detokenizer = stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == detokenizer.text == text


@pytest.mark.parametrize("seed", range(40))
def test_tokens_taken_together_give_the_text_of_tokens_taken_one_by_one(tokenizer, seed):
    """Texts with invalid bytes in them, in parts of any length, with stop strings and without."""
    rng = random.Random(seed)
    ids = [i for text in rng.sample(TEXTS, 4) for i in tokenizer.encode(text)]
    if seed % 2:
        for _ in range(6):
            ids.insert(rng.randrange(len(ids)), tokenizer.encode("é👍")[rng.randrange(4)])
    stop = ("words", "flag, ") if seed % 4 > 1 else ()
    pieces, one_by_one = stream(tokenizer, ids, stop)
    together, made = Detokenizer(tokenizer, [], stop), []
    while ids:
        count = rng.choice([0, 1, 2, 5, 30])
        made.append(together.extend(ids[:count]))
        ids = ids[count:]
    made.append(together.finish())
    assert "".join(made) == "".join(pieces) == together.text == one_by_one.text
    assert together.stopped == one_by_one.stopped


def test_an_answer_cut_inside_a_character_leaves_it_out(tokenizer):
    ids = tokenizer.encode("ok 👍")
    pieces, detokenizer = stream(tokenizer, ids[:-1])
    assert "".join(pieces) == detokenizer.text == "ok "


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_completes_the_character_in_which_its_prompt_was_cut(tokenizer, text):
    ids = tokenizer.encode(text)
    for cut in range(1, len(ids)):
        prompt = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        detokenizer = Detokenizer(tokenizer, ids[:cut], ())
        detokenizer.extend(ids[cut:])
        detokenizer.finish()
        assert prompt + detokenizer.text == text


def test_a_prompt_of_bytes_that_are_no_character_is_not_part_of_the_answer(tokenizer):
    lone = tokenizer.encode("é")[1]
    detokenizer = Detokenizer(tokenizer, [lone] * 9, ())
    detokenizer.extend(tokenizer.encode(" words"))
    assert detokenizer.text == " words"


def test_a_stop_string_is_seen_before_the_character_behind_it_is_whole(tokenizer):
    class Merged:
        """Its token 1 is a stop string and the first byte of the next character."""

        def decode(self, ids, skip_special_tokens):
            text = b"".join([b"one", b" two\xe4", b"\xb8", b"\x96"][i] for i in ids)
            return text.decode(errors="replace")

    detokenizer = Detokenizer(Merged(), [], (" two",))
    assert [detokenizer.push(i) for i in (0, 1)] == ["one", ""]
    assert detokenizer.stopped


def test_finish_can_be_asked_twice(tokenizer):
    detokenizer = Detokenizer(tokenizer, [], ("word up",))
    detokenizer.extend(tokenizer.encode("a word"))
    assert detokenizer.finish() + detokenizer.finish() == "word"
    assert detokenizer.text == "a word"


def test_bytes_that_are_no_character_do_not_hold_the_text_back_for_ever(tokenizer):
    lone = tokenizer.encode("é")[1]  # a continuation byte, which starts no character
    pieces, _ = stream(tokenizer, [*[lone] * 6, *tokenizer.encode(" then words")])
    assert "".join(pieces).endswith(" then words")
    assert any(pieces[:6]), "the replacement marks appear after four tokens at the latest"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", (" two",), "one"),
        ("one two three", ("hree", "two"), "one "),
        ("aaab", ("aab",), "a"),
        ("ababac", ("abac",), "ab"),
        ("no such thing", ("zebra",), "no such thing"),
        ("ends with a beginning of st", ("stop",), "ends with a beginning of st"),
        ("hello世界hello", ("界h",), "hello世"),
        ("STOP", ("STOP",), ""),
    ],
)
def test_stop_strings_cross_tokens_and_are_never_shown(tokenizer, text, stop, expected):
    pieces, detokenizer = stream(tokenizer, tokenizer.encode(text), stop)
    assert "".join(pieces) == detokenizer.text == expected
    assert detokenizer.stopped == (expected != text)
