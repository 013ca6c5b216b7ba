"""The tokenizer inside a GGUF file, as the files that ``AutoTokenizer`` reads."""

import json
from pathlib import Path
from typing import Any

from litellama.checkpoints.gguf import GGUFFile
from litellama.errors import CheckpointError

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type

# Where each byte-level vocabulary cuts a text before merging, by its name in tokenizer.ggml.pre.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: dict[str, str | None] = {
    "gpt-2": None,
    "smollm": r"\p{N}",
    "llama-bpe": LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
}
WHOLE_SPLITS = ("llama-bpe", "qwen2")  # these replace GPT-2's pattern; the others come before it


def write_tokenizer(file: GGUFFile, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and, if there is one, the chat template.

    Byte-level BPE is built here; for a SentencePiece vocabulary transformers reads the file.
    Raises CheckpointError for any other kind.
    """
    kind = file.get("tokenizer.ggml.model", str)
    if kind == "gpt2":
        tokenizer = _byte_level(file)
    elif kind == "llama":
        tokenizer = _sentencepiece(file)
    else:
        raise CheckpointError(
            f"{file.path} has a tokenizer of kind {kind!r}; 'gpt2' and 'llama' are supported"
        )
    tokens = file.get("tokenizer.ggml.tokens", list)
    special = _special_tokens(file, tokens)
    # llama.cpp's rule where the file is silent: SentencePiece texts begin with bos, others do not.
    begin = file.get("tokenizer.ggml.add_bos_token", bool, kind == "llama")
    if begin and "bos_token" in special:
        tokenizer.post_processor = _begin_with(special["bos_token"], tokens)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.setting("context_length", int),
        "clean_up_tokenization_spaces": False,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if "tokenizer.chat_template" in file.metadata:
        template = file.get("tokenizer.chat_template", str)
        (folder / "chat_template.jinja").write_text(template, "utf-8")


def _byte_level(file: GGUFFile) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    tokens = file.get("tokenizer.ggml.tokens", list)
    kinds = file.get("tokenizer.ggml.token_type", list)
    merges = [tuple(merge.split(" ", 1)) for merge in file.get("tokenizer.ggml.merges", list)]
    cut = file.get("tokenizer.ggml.pre", str, "gpt-2")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if not len(vocabulary) == len(tokens) == len(kinds):
        raise CheckpointError(
            f"{file.path} is corrupted: {len(vocabulary)} different tokens among {len(tokens)}, "
            f"and kinds for {len(kinds)}"
        )
    try:
        # Llama 3's vocabulary has whole words that no sequence of merges reaches.
        model = models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe")
    except Exception as error:  # the library raises no narrower class
        raise CheckpointError(f"{file.path} has merges that cannot be used: {error}") from error
    tokenizer = Tokenizer(model)
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(file, cut)
    tokenizer.decoder = decoders.ByteLevel()
    whole: dict[int, list[AddedToken]] = {CONTROL: [], USER_DEFINED: []}
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in whole:
            whole[kind].append(AddedToken(token, normalized=False))
    tokenizer.add_special_tokens(whole[CONTROL])
    tokenizer.add_tokens(whole[USER_DEFINED])
    return tokenizer


def _sentencepiece(file: GGUFFile) -> Any:
    from transformers import AutoTokenizer

    # The vocabulary and its merges only: which tokens are special is read here, the same for all.
    loaded = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name)
    return loaded.backend_tokenizer


def _pre_tokenizer(file: GGUFFile, cut: str) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    if cut not in SPLITS:
        raise CheckpointError(
            f"{file.path} cuts text by the rules {cut!r} (tokenizer.ggml.pre); known are "
            f"{', '.join(SPLITS)}. Convert the Hugging Face version of this model instead"
        )
    pattern = SPLITS[cut]
    byte_level = ByteLevel(add_prefix_space=False, use_regex=cut not in WHOLE_SPLITS)
    if pattern is None:
        return byte_level
    return Sequence([Split(Regex(pattern), behavior="isolated"), byte_level])


def _begin_with(bos: str, tokens: list[str]) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokens.index(bos))]
    )


def _special_tokens(file: GGUFFile, tokens: list[str]) -> dict[str, str]:
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    special = {}
    for name, key in keys.items():
        index = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is None:
            continue
        if not 0 <= index < len(tokens):
            raise CheckpointError(
                f"{file.path} says {name} is token {index}, and it has {len(tokens)} tokens"
            )
        special[name] = tokens[index]
    return special
