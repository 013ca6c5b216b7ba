"""The engines of this notebook: two chats with the same model share one."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from litellama import LLM

NAMES = ("smollm2", "shapes-llava")

_loaded: "WeakValueDictionary[str, LLM]" = WeakValueDictionary()
_one_at_a_time = threading.Lock()


def engine(name: str) -> "LLM":
    """The engine of a model, loaded when nobody in this notebook has it; errors as of ``LLM``."""
    from litellama import LLM

    with _one_at_a_time:
        llm = _loaded.get(name)
        if llm is None:
            path = Path(name).expanduser()
            llm = _loaded[name] = LLM(path if path.exists() else name)
        return llm


def share(llm: "LLM") -> None:
    """Let the chats of this notebook find an engine by its name."""
    with _one_at_a_time:
        _loaded.setdefault(llm.name, llm)
