"""A conversation as it is kept: exchanges, what is known of each answer, and the file of both.

The file is JSON: {"format", "version", "system", "messages"}, the messages as a chat template takes
them, and pictures as PNG in base64.
"""

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litellama.errors import ConversationError, RequestError
from litellama.images import load_image
from litellama.sampling import SamplingParams

if TYPE_CHECKING:
    from PIL.Image import Image

    from litellama.course.chat.meter import Meter

FORMAT, VERSION = "litellama conversation", 1
MAX_FILE = 8_000_000  # bytes of a conversation file, and of a picture
MAX_SIDE = 1024  # pixels; no vision tower of ours sees more


@dataclass(eq=False)
class Exchange:
    """A message of the user, and the answer to it.

    status: "streaming", then why it ended: "stop", "length", "aborted" or "failed", with what is to
    be said of it in ``note``.  The rest is None or empty for an answer that was loaded from a file:
    prompt and answer as token ids, the pictures that the prompt shows, the settings, the measure.
    """

    question: str
    pictures: list["Image"] = field(default_factory=list)
    answer: str = ""
    status: str = "streaming"
    note: str = ""
    model: str = ""
    prompt_ids: list[int] = field(default_factory=list)
    answer_ids: list[int] = field(default_factory=list)
    images: list["Image"] = field(default_factory=list)
    params: SamplingParams | None = None
    meter: "Meter | None" = None


def read_picture(data: bytes) -> "Image":
    """A picture from the bytes of a file, at a size worth keeping; RequestError if it is none."""
    if len(data) > MAX_FILE:
        raise RequestError(
            f"the picture has {len(data):,} bytes, and {MAX_FILE:,} are the most: make it smaller"
        )
    picture = load_image(data)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return picture


def png(picture: "Image") -> str:
    """A picture as PNG, in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def to_file(system: str, exchanges: Sequence[Exchange]) -> str:
    """The text of a conversation file."""
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        asked: dict[str, Any] = {"role": "user", "content": exchange.question}
        if exchange.pictures:
            asked["pictures"] = [png(picture) for picture in exchange.pictures]
        messages += [asked, {"role": "assistant", "content": exchange.answer}]
    whole = {"format": FORMAT, "version": VERSION, "system": system, "messages": messages}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def from_file(text: str, name: str = "the file") -> tuple[str, list[Exchange]]:
    """The system prompt and the exchanges of a conversation file; ConversationError if it is none.

    name: of the file, for the message.
    """

    def refuse(why: str) -> ConversationError:
        return ConversationError(f"{name} is no conversation that can be loaded: {why}")

    if len(text) > MAX_FILE:
        raise refuse(f"it has {len(text):,} characters, and {MAX_FILE:,} are the most")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(f"it is not JSON ({error})") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise refuse(f'it does not say "format": "{FORMAT}"')
    if whole.get("version") != VERSION:
        raise refuse(f"it is of version {whole.get('version')!r}, and {VERSION} is known")
    system, messages = whole.get("system", ""), whole.get("messages")
    if not isinstance(system, str) or not isinstance(messages, list):
        raise refuse("system must be a string, and messages a list")
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages]
    if len(messages) % 2 or roles != ["user", "assistant"] * (len(messages) // 2):
        raise refuse("its messages must be the user's and the assistant's in turn")
    if not all(isinstance(m.get("content"), str) for m in messages):
        raise refuse("the content of each message must be a string")
    pairs = zip(messages[::2], messages[1::2], strict=True)
    return system, [_exchange(asked, said, refuse) for asked, said in pairs]


def _exchange(asked: dict[str, Any], said: dict[str, Any], refuse: Any) -> Exchange:
    """An exchange of two messages of a file."""
    encoded = asked.get("pictures", [])
    if not isinstance(encoded, list) or not all(isinstance(p, str) for p in encoded):
        raise refuse("pictures must be a list of strings")
    try:
        pictures = [read_picture(base64.b64decode(p, validate=True)) for p in encoded]
    except (binascii.Error, ValueError) as error:
        raise refuse(f"a picture in it cannot be read ({error})") from error
    return Exchange(asked["content"], pictures, said["content"], status="loaded")
