"""The tokenizer of a GGUF file: the same ids as the original, and the same chat."""

import gguf
import pytest
from transformers import AutoTokenizer, Qwen2Tokenizer

from litellama.checkpoints import convert
from litellama.checkpoints.gguf import GGUFFile
from litellama.checkpoints.tokenizer import write_tokenizer
from litellama.errors import CheckpointError
from tests.checkpoints.gguf_maker import write_gguf

TEXTS = {
    "words": "hello hello, he said",
    "code": "def f(x):\n\treturn x ** 2  # two",
    "spaces": "  a   b\n\n c ",
    "accents": "naïve café",
    "Chinese": "你好，世界",
    "emoji": "🙂👩‍🚀",
    "special tokens": "<|user|>hello<|end|>",
    "nearly special": "<|end|hello<|",
    "nothing": "",
}


@pytest.fixture(scope="module")
def tokenizers(tiny_llama, tiny_gguf, tmp_path_factory):
    folder = convert(tiny_gguf, tmp_path_factory.mktemp("converted"))
    return AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tiny_llama)


@pytest.mark.parametrize("name", TEXTS)
def test_ids_and_text_are_those_of_the_original(tokenizers, name):
    ours, original = tokenizers
    ids = ours(TEXTS[name]).input_ids
    assert ids == original(TEXTS[name]).input_ids
    assert ours.decode(ids) == TEXTS[name]


def test_special_tokens_and_the_chat_are_those_of_the_original(tokenizers):
    ours, original = tokenizers
    assert ours.eos_token == original.eos_token == "<|end|>"
    assert ours.eos_token_id == original.eos_token_id
    assert len(ours) == len(original)
    chat = [{"role": "user", "content": "hello"}]
    ours_ids, original_ids = (
        t.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for t in tokenizers
    )
    assert ours_ids == original_ids
    assert ours.decode(ours_ids) == "<|user|>hello<|end|><|assistant|>"
    assert ours.decode(ours_ids, skip_special_tokens=True) == "hello"


def pieces(gguf_path, folder, text: str) -> list[str]:
    write_tokenizer(GGUFFile(gguf_path), folder)
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["it", "'s", "Ġ1234", "Ġok"]),
        ("smollm", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ġok"]),
        ("llama-bpe", ["it", "'s", "Ġ", "123", "4", "Ġok"]),
        ("qwen2", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ġok"]),
    ],
)
def test_text_is_cut_by_the_rules_that_the_file_names(tiny_llama, tmp_path, pre, expected):
    path = write_gguf(tiny_llama, tmp_path / "model.gguf", pre=pre)
    assert pieces(path, tmp_path, "it's 1234 ok") == expected


def test_qwens_rules_are_those_of_transformers(tiny_llama, tmp_path):
    """Composed characters too: Qwen takes an e and its accent for one character."""
    path = write_gguf(tiny_llama, tmp_path / "model.gguf", pre="qwen2")
    write_tokenizer(GGUFFile(path), tmp_path)
    ours = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    theirs = Qwen2Tokenizer().backend_tokenizer
    for text in (*TEXTS.values(), "cafe\u0301 I'M 12 345.\r\n\n  x!!\n"):
        normal = ours.normalizer.normalize_str(text)
        assert normal == theirs.normalizer.normalize_str(text)
        cut = theirs.pre_tokenizer.pre_tokenize_str(normal)
        assert ours.pre_tokenizer.pre_tokenize_str(normal) == cut


def test_rules_that_are_not_known_are_refused(tiny_llama, tmp_path):
    path = write_gguf(tiny_llama, tmp_path / "model.gguf", pre="martian")
    with pytest.raises(CheckpointError, match=r"'martian'.*gpt-2, smollm, llama-bpe"):
        write_tokenizer(GGUFFile(path), tmp_path)


def test_a_kind_that_is_not_known_is_refused(tiny_gguf, tmp_path):
    file = GGUFFile(tiny_gguf)
    file.metadata["tokenizer.ggml.model"] = "bert"
    with pytest.raises(CheckpointError, match="kind 'bert'"):
        write_tokenizer(file, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("merges", ["h zebra"], "merges that cannot be used"),
        ("merges", ["nospace"], "merges that cannot be used"),
        ("tokens", ["a", "a"], "1 different tokens among 2"),
        ("token_type", [1], "and kinds for 1"),
        ("token_type", "text", "cannot be right"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tiny_gguf, tmp_path, key, value, message):
    file = GGUFFile(tiny_gguf)
    file.metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(CheckpointError, match=message):
        write_tokenizer(file, tmp_path)


def test_a_special_token_outside_the_vocabulary_is_refused(tiny_gguf, tmp_path):
    file = GGUFFile(tiny_gguf)
    file.metadata["tokenizer.ggml.eos_token_id"] = 10**6
    with pytest.raises(CheckpointError, match="eos_token is token 1000000"):
        write_tokenizer(file, tmp_path)


def test_a_beginning_of_text_is_added_where_the_file_says_so(tiny_gguf, tmp_path):
    file = GGUFFile(tiny_gguf)
    begin = file.metadata["tokenizer.ggml.tokens"].index("<|system|>")
    file.metadata |= {"tokenizer.ggml.bos_token_id": begin, "tokenizer.ggml.add_bos_token": True}
    write_tokenizer(file, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("hello").input_ids[0] == begin
    assert tokenizer("hello", add_special_tokens=False).input_ids[0] != begin


def test_a_sentencepiece_vocabulary_is_read_by_transformers(tmp_path):
    special, pieces = ["<unk>", "<s>", "</s>"], ["▁", "h", "e", "l", "o", "he", "▁he"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces), 0, -1)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_context_length(64)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_tokenizer(GGUFFile(tmp_path / "model.gguf"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("helloé</s>").input_ids
    expected = ["<s>", "▁he", "l", "l", "o", "<0xC3>", "<0xA9>", "</s>"]
    assert [tokens[i] for i in ids] == expected
    assert tokenizer.decode(ids, skip_special_tokens=True) == "helloé"
    assert tokenizer.eos_token_id == 2
    assert tokenizer.chat_template == "{{ messages[0].content }}"
