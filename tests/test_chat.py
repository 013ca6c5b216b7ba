"""Conversations to prompts: template arguments, and templates that read contents as lists."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tokenizers.processors import TemplateProcessing

from litellama import LLM, SamplingParams
from litellama.chat import render_chat, wants_parts
from litellama.errors import RequestError
from tests.checkpoint_maker import make_llava

IMAGE = Image.new("RGB", (30, 30), "red")
# As Qwen3's: an empty thought is put in the model's mouth when it must not think.
THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
# As LLaVA 1.5's: the pictures of a message first, then its texts; a string has neither.
PARTS = (
    "{% for m in messages %}{{ m.role | upper }}: "
    "{% for part in m.content | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Templated:
    """The one method of a tokenizer that a conversation needs, by transformers itself."""

    def __init__(self, template: str, folder: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        make_llava(folder)
        self.chat_template = template
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def apply_chat_template(self, messages, **arguments):
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, **arguments
        )


def ask(content) -> list[dict]:
    return [{"role": "user", "content": content}]


def test_arguments_reach_the_template(tmp_path):
    tokenizer = Templated(THINKING, tmp_path)
    assert render_chat(tokenizer, ask("hi"), {}) == "<|user|>hi<|assistant|>"
    thoughtless = render_chat(tokenizer, ask("hi"), {"enable_thinking": False})
    assert thoughtless == "<|user|>hi<|assistant|><think></think>"
    assert render_chat(tokenizer, ask("hi"), {"enable_thinking": True}) == "<|user|>hi<|assistant|>"


@pytest.mark.parametrize(
    "name", ["enable_thinkin", "thinking", "tokenize", "add_generation_prompt"]
)
def test_an_argument_that_the_template_does_not_have_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match=f"has no argument '{name}'"):
        render_chat(Templated(THINKING, tmp_path), ask("hi"), {name: False})


def test_the_front_door_passes_arguments_on(tiny_llama):
    llm = LLM(tiny_llama, device="cpu")
    llm.tokenizer.chat_template = THINKING
    ids = llm.chat_prompt(ask("hi"), enable_thinking=False)
    assert llm.tokenizer.decode(ids).endswith("<think></think>")
    assert llm.chat(ask("hi"), enable_thinking=False).prompt_token_ids == ids
    with pytest.raises(RequestError, match="no argument 'enable_thinkin'"):
        llm.chat(ask("hi"), enable_thinkin=False)


CONVERSATION = [
    *ask("<image>\nWhat is it?"),
    {"role": "assistant", "content": "A cat."},
    *ask([{"type": "text", "text": "And this?"}, {"type": "image"}]),
]


def test_a_template_that_reads_lists_gets_lists(tmp_path):
    tokenizer = Templated(PARTS, tmp_path)
    assert wants_parts(tokenizer)
    assert not wants_parts(Templated(THINKING, tmp_path))
    assert render_chat(tokenizer, CONVERSATION, {}, "<image>", 2) == (
        "USER: <image>\nWhat is it? ASSISTANT: A cat. USER: <image>\nAnd this? ASSISTANT:"
    )
    assert render_chat(tokenizer, ask("So?"), {}, "<image>", 2) == (
        "USER: <image>\n<image>\nSo? ASSISTANT:"
    )
    assert render_chat(tokenizer, ask("So?"), {}, "<image>", 0) == "USER: So? ASSISTANT:"


def test_a_template_that_reads_strings_gets_markers(tmp_path):
    text = render_chat(Templated(THINKING, tmp_path), CONVERSATION, {}, "<image>", 2)
    assert text == (
        "<|user|><image>\nWhat is it?<|assistant|>A cat.<|user|>And this?<image>\n<|assistant|>"
    )


@pytest.mark.parametrize(
    "content", [None, 3, ["hi"], [{"type": "text"}], [{"type": "audio"}], [{"text": 5}]], ids=str
)
def test_contents_that_are_neither_text_nor_pictures(tmp_path, content):
    with pytest.raises(RequestError, match="each message must be"):
        render_chat(Templated(THINKING, tmp_path), ask(content), {}, "<image>")


def test_the_template_of_an_older_checkpoint_is_found(tmp_path):
    folder = make_llava(tmp_path)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PARTS}))
    llm = LLM(folder, device="cpu")
    ids = llm.chat_prompt(ask("hello"), num_images=1)
    assert llm.tokenizer.decode(ids) == "USER: " + "<image>" * 16 + "\nhello ASSISTANT:"


@pytest.mark.parametrize("template", [PARTS, "{{ bos_token }}" + PARTS], ids=["silent", "writes"])
def test_a_llava_prompt_begins_with_one_bos_token_whoever_writes_it(tmp_path, template):
    """As transformers' processor does: LLaVA 1.5's template leaves the token to the tokenizer."""
    folder = make_llava(tmp_path)
    llm = LLM(folder, device="cpu")
    llm.tokenizer.bos_token = "<|system|>"
    llm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A",
        special_tokens=[("<|system|>", llm.tokenizer.convert_tokens_to_ids("<|system|>"))],
    )
    llm.tokenizer.chat_template = template
    ids = llm.chat_prompt(ask("hello"), num_images=1)
    assert llm.tokenizer.decode(ids).startswith("<|system|>USER: <image>")
    assert ids == llm.generate(ids, SamplingParams(max_tokens=1), [IMAGE])[0].prompt_token_ids
