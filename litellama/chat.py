"""Conversations to prompts: the checkpoint's chat template, and pictures among the words.

Lesson 18 uses this file.
"""

import re
from collections.abc import Sequence
from typing import Any

from litellama.errors import RequestError

Message = dict[str, Any]
OURS = ("tokenize", "add_generation_prompt", "continue_final_message", "messages", "conversation")


def render_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    arguments: dict[str, Any],
    marker: str | None = None,
    num_images: int = 0,
) -> str:
    """The text of a conversation, ready for the assistant's next message.

    arguments: passed to the template, such as ``enable_thinking`` of Qwen3.  marker: what stands
    for a picture in a text, for a model that reads pictures.  When no message says where the
    ``num_images`` pictures belong, they go before the text of the user's last message.
    """
    check_messages(messages)
    for name in arguments:
        if name in OURS or not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            raise RequestError(f"the chat template of this model has no argument {name!r}")
    said = [{**m, "content": content_text(m["content"], marker)} for m in messages]
    if marker and num_images and not any(marker in m["content"] for m in said):
        asked = [m for m in said if m["role"] == "user"]
        if not asked:
            raise RequestError(f"got {num_images} image(s) and no message of the user to show them")
        asked[-1]["content"] = f"{marker}\n" * num_images + asked[-1]["content"]
    if marker and wants_parts(tokenizer):
        said = [{**m, "content": content_parts(m["content"], marker)} for m in said]
    return tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=True, **arguments
    )


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what is not a list of {"role", "content"} dictionaries."""
    if not messages:
        raise RequestError("the conversation is empty: give at least one message")
    for message in messages:
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not is_content(message.get("content"))
        ):
            raise RequestError(
                'each message must be {"role": ..., "content": ...} with strings, or with a list '
                'of {"type": "image"} and {"type": "text", "text": ...} as the content, '
                f"got {message!r}"
            )


def is_content(content: Any) -> bool:
    """Whether a message's content is a string, or a list of texts and images."""
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and (part.get("type") == "image" or isinstance(part.get("text"), str))
        for part in content
    )


def content_text(content: str | list[dict[str, Any]], marker: str | None) -> str:
    """A message's content as one string, with a marker in each picture's place."""
    if isinstance(content, str):
        return content
    if marker is None and any(part.get("type") == "image" for part in content):
        raise RequestError("this model reads text only, and a message has an image in it")
    return "".join(
        f"{marker}\n" if part.get("type") == "image" else part["text"] for part in content
    )


def content_parts(content: str, marker: str) -> list[dict[str, str]]:
    """The same as a list of parts, for templates that ask for one; they set their own spaces."""
    parts: list[dict[str, str]] = []
    for i, text in enumerate(content.split(marker)):
        if i:
            parts.append({"type": "image"})
        if text.strip():
            parts.append({"type": "text", "text": text.strip("\n")})
    return parts


def wants_parts(tokenizer: Any) -> bool:
    """Whether the template reads contents as lists: then it leaves out the text of a string."""
    probe = [{"role": "user", "content": "probe"}]
    return "probe" not in tokenizer.apply_chat_template(probe, tokenize=False)
