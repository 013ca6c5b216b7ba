"""The chat's page in a notebook: what it shows, and what is done when something is pressed.

``view.js`` draws the traits below and sends messages; every message is answered, so that the page
notices when the kernel is busy or gone.  Plain ipywidgets do not suffice: their sliders have no
name for a screen reader, and they have no canvas, no key that sends, and no word to click on.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from litellama.course.chat import models
from litellama.course.chat.conversation import (
    MAX_FILE,
    Exchange,
    from_file,
    png,
    read_picture,
    to_file,
)
from litellama.course.chat.inspector import Inspection, inspect
from litellama.course.chat.markdown import html, tree
from litellama.course.chat.talk import Talk
from litellama.course.drawing import PALETTE
from litellama.errors import ConversationError, RequestError
from litellama.images import load_image

if TYPE_CHECKING:
    from litellama import LLM

HERE = Path(__file__).parent
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed")
ENDED = {
    "length": "cut off: the most tokens, or the end of the context, were reached",
    "aborted": "stopped",
}


class Chat(anywidget.AnyWidget):
    """A chat with an engine, in a notebook.

    model: an ``LLM``, which several chats may share, or what ``LLM`` takes to load one: that
    happens beside the notebook, and what goes wrong is said on the page.  settings: of
    ``SamplingParams``, what the sliders start from.
    """

    _esm = HERE / "view.js"
    _css = HERE / "view.css"

    exchanges: Any = traitlets.List().tag(sync=True)  # those that are answered
    live: Any = traitlets.Dict(allow_none=True, default_value=None).tag(
        sync=True
    )  # the one that is not
    about = traitlets.Dict().tag(sync=True)  # the model
    settings = traitlets.Dict().tag(sync=True)
    system = traitlets.Unicode().tag(sync=True)
    pictures: Any = traitlets.List().tag(sync=True)  # those that the next message brings
    palette = traitlets.Dict(PALETTE).tag(sync=True)
    max_file = traitlets.Int(MAX_FILE).tag(sync=True)

    def __init__(self, model: "LLM | str" = "smollm2", system: str = "", **settings: Any) -> None:
        super().__init__()
        self.talk = Talk(None, self._show)
        self.talk.system = system
        self.talk.params = replace(self.talk.params, **settings)
        self._brought: list[Any] = []  # Pillow images of the next message
        self._views: dict[Exchange, dict[str, Any]] = {}
        self._showing = threading.Lock()
        self._loading = ""
        self.on_msg(self._receive)
        if isinstance(model, str):
            self._load_model(model, lambda error: self._tell(error or ""))
        else:
            models.share(model)
            self.talk.llm = model
        self._show()

    @traitlets.observe("comm")
    def _hear_every_page(self, change: dict[str, Any]) -> None:
        """Have what a page says handled where the page asks for it.

        ipykernel 7.4 hands it instead to the subshell in whose name the kernel spoke last.  While
        an answer streams that may be one of a page that was reloaded, and is gone: the new page
        would see every word come and never be heard.
        """
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, subshell: subshell

    # --- for the cells of a notebook -------------------------------------------------------------

    def ask(self, text: str, *pictures: Any) -> str:
        """Ask and wait for the answer: as from the page, but from a cell.

        pictures: as for ``LLM.chat``.
        """
        self.talk.send(text, [load_image(picture) for picture in pictures])
        self.talk.wait()
        last = self.talk.exchanges[-1]
        if last.status == "failed":
            raise ConversationError(last.note)
        return last.answer

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file."""
        Path(path).write_text(to_file(self.talk.system, self.talk.exchanges), encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Go on with the conversation of a file; ConversationError if it is none."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConversationError(f"{path} cannot be read: {error}") from error
        self.talk.replace_all(*from_file(text, str(path)))

    # --- what the page shows ---------------------------------------------------------------------

    def _show(self) -> None:
        """Bring the page up to date, from any thread; an answer never fails because of its page."""
        try:
            self._synchronise()
        except Exception as error:
            with contextlib.suppress(Exception):  # there may be no kernel to say it to any more
                self._tell(f"The page could not be brought up to date: {error!r}")

    def _synchronise(self) -> None:
        """Set every trait to the state of the conversation, in one message."""
        with self._showing, self.hold_sync():
            done = list(self.talk.exchanges)
            live = done.pop() if done and done[-1].status == "streaming" else None
            self._views = {e: self._views.get(e) or view_of(e, self.talk.llm) for e in done}
            self.exchanges = [self._views[exchange] for exchange in done]
            self.live = view_of(live, self.talk.llm) if live else None
            self.system = self.talk.system
            self.settings = settings_of(self.talk)
            self.pictures = [data_url(picture) for picture in self._brought]
            self.about = about(self.talk.llm, self._loading)

    def _tell(self, text: str) -> None:
        """Say something that nobody asked for, such as how loading ended."""
        self.send({"notice": text})

    def static_html(self) -> str:
        """The conversation as HTML, for readers who have no widgets."""
        name = escape(self.about.get("name") or "a model")
        parts = [f"<p><strong>A chat with {name}</strong></p>"]
        for exchange in self.exchanges:
            said = f"<blockquote>{html(exchange['nodes'])}</blockquote>"
            parts.append(f"<p><strong>You:</strong> {escape(exchange['question'])}</p>")
            parts.append(f"<p><strong>The model:</strong></p>{said}")
        return "".join(parts)

    def __repr__(self) -> str:
        return f"Chat({self.about.get('name', '')!r}, {len(self.exchanges)} exchanges)"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, *rest = bundle if isinstance(bundle, tuple) else (bundle,)
        data = dict(data or {}) | {"text/html": self.static_html()}
        return (data, *rest) if rest else data

    # --- what is done when something is pressed --------------------------------------------------

    def _receive(self, _: Any, content: dict[str, Any], buffers: list[memoryview]) -> None:
        """Carry out a message of the page, and answer it under its number."""
        number = content.get("n")

        def answer(error: str | None = None, **result: Any) -> None:
            self.send({"re": number, "error": error, **result})

        def attempt(action: Callable[[], dict[str, Any] | None]) -> None:
            try:
                result = action() or {}
            except Exception as error:  # said on the page, which stays usable
                answer(str(error) if isinstance(error, ValueError) else repr(error))
            else:
                answer(**result)

        slow = {"inspect": self._on_inspect, "model": self._on_model}
        quick = {
            "ping": lambda c, b: None,
            "send": self._on_send,
            "regenerate": lambda c, b: self.talk.regenerate(),
            "stop": lambda c, b: self.talk.stop(),
            "clear": self._on_clear,
            "settings": self._on_settings,
            "system": self._on_system,
            "picture": self._on_picture,
            "no pictures": self._on_no_pictures,
            "save": lambda c, b: {"file": to_file(self.talk.system, self.talk.exchanges)},
            "load": lambda c, b: self.talk.replace_all(*from_file(str(c["text"]), str(c["name"]))),
        }
        name = content.get("do")
        if name in slow:  # the kernel stays usable
            work = (lambda: slow[name](content),)
            threading.Thread(target=attempt, args=work, daemon=True).start()
        elif name in quick:
            attempt(lambda: quick[name](content, buffers))

    def _on_send(self, content: dict[str, Any], buffers: list[memoryview]) -> None:
        text = str(content["text"])
        if content.get("edit"):
            self.talk.edit_last(text)
        else:
            self.talk.send(text, self._brought)
            self._brought = []
        self._show()

    def _on_clear(self, content: dict[str, Any], buffers: list[memoryview]) -> None:
        self._brought = []
        self.talk.clear()

    def _on_settings(self, content: dict[str, Any], buffers: list[memoryview]) -> None:
        changes = {key: value for key, value in content["values"].items() if key in SETTINGS}
        if "seed" in changes:
            changes["seed"] = read_seed(str(changes["seed"]))
        try:
            self.talk.params = replace(self.talk.params, **changes)
        finally:
            self._show()

    def _on_system(self, content: dict[str, Any], buffers: list[memoryview]) -> None:
        self.talk.system = str(content["text"])
        self._show()

    def _on_picture(self, content: dict[str, Any], buffers: list[memoryview]) -> None:
        llm = self.talk.llm
        if llm is None or llm.config.vision is None:
            name = llm.name if llm else "no model"
            raise RequestError(f"{name} reads text only: choose a model that reads pictures")
        self._brought.append(read_picture(bytes(buffers[0])))
        self._show()

    def _on_no_pictures(self, content: dict[str, Any], buffers: list[memoryview]) -> None:
        self._brought = []
        self._show()

    def _on_inspect(self, content: dict[str, Any]) -> dict[str, Any]:
        exchange = self.talk.exchanges[int(content["exchange"])]
        llm, index = self.talk.llm, int(content["token"])
        if llm is None or llm.name != exchange.model:
            raise ConversationError(
                f"{exchange.model or 'Another model'} wrote this: load it again to look inside."
            )
        return {"inspection": table_of(llm, exchange, inspect(llm, exchange, index), index)}

    def _on_model(self, content: dict[str, Any]) -> None:
        done = threading.Event()
        errors: list[str] = []

        def finished(error: str | None) -> None:
            errors.extend([error] if error else [])
            done.set()

        self._load_model(str(content["name"]).strip(), finished)
        done.wait()
        if errors:
            raise ConversationError(errors[0])

    def _load_model(self, name: str, finished: Callable[[str | None], None]) -> None:
        """Load a model on a thread of its own; ``finished`` gets None, or what went wrong."""
        if self.talk.busy:
            return finished("An answer is still coming: stop it first, or wait.")
        if not name:
            return finished("Which model? Give a name, a folder, or a .gguf file.")

        def work() -> None:
            error = None
            try:
                self.talk.llm = models.engine(name)
                self._brought = []
            except Exception as problem:
                error = f"{name} could not be loaded: {problem}"
            self._loading = ""
            self._show()
            finished(error)

        self._loading = name
        self._show()
        threading.Thread(target=work, name="chat load", daemon=True).start()
        return None


def view_of(exchange: Exchange, llm: "LLM | None") -> dict[str, Any]:
    """What the page shows of an exchange."""
    ended = exchange.status != "streaming"
    decode = llm.tokenizer.decode if llm and llm.name == exchange.model else None
    return {
        "question": exchange.question,
        "pictures": [data_url(picture) for picture in exchange.pictures],
        "nodes": tree(exchange.answer),
        "text": exchange.answer,
        "status": exchange.status,
        "note": " ".join(filter(None, (exchange.note, ENDED.get(exchange.status, "")))),
        "tokens": [decode([i]) for i in exchange.answer_ids] if ended and decode else [],
        "stats": stats_of(exchange, llm),
    }


def stats_of(exchange: Exchange, llm: "LLM | None") -> dict[str, Any]:
    """Times, tokens and blocks of an answer; empty for one that was loaded from a file."""
    meter = exchange.meter
    if meter is None:
        return {}
    made: dict[str, Any] = {
        "first": meter.first_token,
        "rate": meter.rate,
        "tokens": meter.tokens,
        "prompt": meter.prompt_tokens,
        "cached": meter.cached_tokens,
        "seed": str(exchange.params.seed) if exchange.params else "",
        "block_size": meter.block_size,
        "fills": meter.fills(),
    }
    if llm is not None:
        pool = llm.engine.stats()
        made |= {"pool": pool.blocks, "used": pool.blocks - pool.free_blocks}
        made |= {"running": pool.running}
    return made


def about(llm: "LLM | None", loading: str) -> dict[str, Any]:
    """The model, as the page shows it."""
    made: dict[str, Any] = {"names": list(models.NAMES), "loading": loading, "name": ""}
    if llm is not None:
        made |= {
            "name": llm.name,
            "pictures": llm.config.vision is not None,
            "context": llm.max_seq_len,
            "device": str(llm.device),
            "dtype": str(llm.dtype).removeprefix("torch."),
        }
    return made


def settings_of(talk: Talk) -> dict[str, Any]:
    """The settings; the seed as text, because a page's numbers end at 2^53."""
    values = {name: getattr(talk.params, name) for name in SETTINGS}
    return values | {"seed": "" if talk.params.seed is None else str(talk.params.seed)}


def read_seed(text: str) -> int | None:
    """A seed as it was typed; nothing is None."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise RequestError(
            f"the seed must be a whole number from 0 up, or empty, got {text!r}"
        ) from None


def data_url(picture: Any) -> str:
    """A decoded picture, for the page."""
    return f"data:image/png;base64,{png(picture)}"


def table_of(llm: "LLM", exchange: Exchange, found: Inspection, index: int) -> dict[str, Any]:
    """An inspection, as the page shows it."""
    assert exchange.params is not None
    decode = llm.tokenizer.decode
    rows = [
        {
            "text": decode([row.token_id]),
            "id": row.token_id,
            "probability": row.probability,
            "chance": row.chance,
            "drawn": row.token_id == found.drawn,
        }
        for row in found.rows
    ]
    p = exchange.params
    dials = f"temperature {p.temperature:g}, top-p {p.top_p:g}, top-k {p.top_k}, min-p {p.min_p:g}"
    return {
        "token": index,
        "text": decode([found.drawn]),
        "rows": rows,
        "rank": found.rank,
        "kept": found.kept,
        "total": found.total,
        "dials": dials,
    }
