"""``litellama chat``: a conversation in the terminal, streamed.

``Conversation`` holds what was said and speaks to the engine; ``Screen`` shows an answer as it
comes; ``chat`` reads lines and connects the two.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from litellama.cli import options
from litellama.cli.console import complain, notice, stdout
from litellama.errors import EngineError

if TYPE_CHECKING:
    from litellama import LLM, SamplingParams

HELP = """\
/reset                start again (the system prompt stays)
/system TEXT          set the system prompt and start again; without TEXT, show it
/params               show the sampling parameters
/params NAME=VALUE …  set some of them, as in /params temperature=0.7 top_k=40 seed=none
/image FILE           show a picture with the next message
/help                 this list
/quit                 leave (as does Ctrl-D)
Ctrl-C stops an answer; what was said so far stays in the conversation."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for one message."""

    text: str
    tokens: int
    seconds: float
    finish_reason: str

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds > 0 else 0.0
        why = {
            "stop": "finished",
            "length": "cut at max_tokens or the end of the context",
            "aborted": "stopped by Ctrl-C",
        }.get(self.finish_reason, self.finish_reason)
        return f"{self.tokens} tokens, {rate:.1f} tokens/s, {why}"


class Conversation:
    """The messages so far, the system prompt and the sampling parameters.

    images: the pictures of the messages, in order.  shown: those that the next message brings.
    """

    def __init__(self, llm: "LLM", params: "SamplingParams", system: str | None) -> None:
        self.llm = llm
        self.params = params
        self.system = system
        self.messages: list[dict[str, Any]] = []
        self.images: list[Any] = []
        self.shown: list[Any] = []

    def reset(self) -> None:
        """Forget what was said and shown; the system prompt and the parameters stay."""
        self.messages.clear()
        self.images.clear()
        self.shown.clear()

    def show_image(self, path: str) -> None:
        """Bring a picture with the next message; ``ValueError`` if that cannot be."""
        if self.llm.config.vision is None:
            raise ValueError("this model reads text only: choose one that reads pictures")
        self.shown.append(load_picture(path))

    def set_params(self, assignments: list[str]) -> None:
        """Apply ``name=value`` strings; a wrong one raises ``ValueError`` and changes nothing."""
        changes = dict(parse_assignment(text, self.params) for text in assignments)
        self.params = dataclasses.replace(self.params, **changes)

    def prompt(self) -> tuple[list[int], int]:
        """Token ids of the conversation, and how many of its oldest exchanges had to be dropped.

        Room is kept for an answer: up to max_tokens, but at most half the context.
        """
        context = self.llm.max_seq_len
        room = min(self.params.max_tokens, context // 2)
        system = [{"role": "system", "content": self.system}] if self.system else []
        first = 0  # message that is kept: questions and answers, two each
        while True:
            ids = self.llm.chat_prompt(system + self.messages[first:])
            if len(ids) + room <= context or first == len(self.messages) - 1:
                break
            first += 2
        if len(ids) >= context:
            raise ValueError(
                f"the message is too long: {len(ids)} tokens with the chat template, and the "
                f"context holds {context}"
            )
        for message in self.messages[:first]:
            del self.images[: num_images(message)]
        del self.messages[:first]
        return ids, first // 2

    def answer(self, message: str, show: Callable[[str], None], stopped: threading.Event) -> Answer:
        """Say ``message``, pass the answer's pieces to ``show`` as they come, and remember both.

        When ``stopped`` is set the answer ends there, and what was said of it is kept.
        """
        self.messages.append({"role": "user", "content": with_images(message, len(self.shown))})
        self.images += self.shown
        try:
            ids, dropped = self.prompt()
            if dropped:
                notice(f"The context is full: forgot the oldest {dropped} exchange(s).")
            answer = self._stream(ids, show, stopped, time.perf_counter())
        except BaseException:  # no answer: the message is taken back, its pictures wait for another
            del self.images[len(self.images) - num_images(self.messages.pop()) :]
            raise
        self.shown.clear()
        self.messages.append({"role": "assistant", "content": answer.text})
        return answer

    def _stream(
        self, ids: list[int], show: Callable[[str], None], stopped: threading.Event, start: float
    ) -> Answer:
        said = ""
        stream = self.llm.stream(ids, self.params, self.images)
        try:
            while not stopped.is_set():
                piece = next(stream)
                said += piece
                show(piece)
        except StopIteration as end:
            tokens = len(end.value.token_ids)
            return Answer(said, tokens, time.perf_counter() - start, end.value.finish_reason)
        finally:
            stream.close()  # frees the request's blocks when the answer was stopped
        tokens = len(self.llm.tokenizer.encode(said, add_special_tokens=False))
        return Answer(said, tokens, time.perf_counter() - start, "aborted")


def with_images(message: str, count: int) -> str | list[dict[str, str]]:
    """The content of a message that brings ``count`` pictures."""
    return [{"type": "image"}] * count + [{"type": "text", "text": message}] if count else message


def num_images(message: dict[str, Any]) -> int:
    """How many pictures a message brings."""
    content = message["content"]
    return content.count({"type": "image"}) if isinstance(content, list) else 0


def load_picture(path: str) -> Any:
    """The decoded picture of a file; ``ValueError`` says what is wrong with it."""
    from litellama.images import load_image

    return load_image(path)


def parse_assignment(text: str, params: "SamplingParams") -> tuple[str, Any]:
    """``"top_k=40"`` as ``("top_k", 40)``, with the type that the parameter has."""
    name, equals, value = text.partition("=")
    names = [field.name for field in dataclasses.fields(params)]
    if not equals or name not in names:
        raise ValueError(f"{text!r} is not NAME=VALUE with a NAME among {', '.join(names)}")
    kinds = {"stop": tuple, "seed": int, "ignore_eos": bool, "top_k": int, "max_tokens": int}
    kind = kinds.get(name, float)
    if kind is tuple:
        return name, (value,) if value else ()
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{name} is true or false, got {value!r}")
        return name, value.lower() == "true"
    if name == "seed" and value.lower() == "none":
        return name, None
    try:
        return name, kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {what}, got {value!r}") from None


class Screen:
    """Shows one answer as it comes: Markdown on a terminal, the plain pieces anywhere else.

    A finished block (paragraph, list, code) is printed once and scrolls away for good; only the
    block that is still growing is redrawn, so that nothing above it ever flickers.
    """

    def __init__(self, console: Console, markdown: bool) -> None:
        self.console = console
        self.tail = ""
        self.live = None
        if markdown:
            self.live = Live(console=console, refresh_per_second=12, transient=True)
            self.live.start()

    def add(self, piece: str) -> None:
        """Show one more piece of the answer."""
        if self.live is None:
            self.console.file.write(piece)
            self.console.file.flush()
            return
        done, self.tail = split_blocks(self.tail + piece)
        if done:
            self.live.update(Text(""), refresh=True)
            self.console.print(Group(render(done), Text("")))
        self.live.update(last_lines(render(self.tail), self.console))

    def close(self) -> None:
        """Print what is left, and give the terminal back."""
        if self.live is None:
            self.console.file.write("\n")
            self.console.file.flush()
            return
        self.live.update(Text(""))
        self.live.stop()
        if self.tail.strip():
            self.console.print(render(self.tail))


def split_blocks(text: str) -> tuple[str, str]:
    """Split Markdown after its last finished block: at a blank line outside a code fence."""
    done = 0
    position = 0
    fenced = False
    for line in text.splitlines(keepends=True):
        position += len(line)
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not line.strip() and line.endswith("\n") and not fenced:
            done = position
    return text[:done], text[done:]


def render(text: str) -> RenderableType:
    """Markdown with its line breaks and its angle brackets kept, which a poem or a tag needs."""
    fenced = False
    lines = []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            lines.append(line)
        else:
            lines.append(line if fenced else line.replace("<", "\\<") + "  ")
    return Markdown("\n".join(lines))


def last_lines(renderable: RenderableType, console: Console) -> RenderableType:
    """The last screenful: what is taller than the terminal cannot be redrawn in place."""
    lines = console.render_lines(renderable, pad=False)
    visible = lines[-max(console.height - 2, 1) :]
    return Text("\n").join(
        Text.assemble(*[(s.text, s.style or "") for s in line]) for line in visible
    )


@contextlib.contextmanager
def stop_on_ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of interrupting the engine in the middle of a step.

    A second one, should the first not be heard, interrupts as usual.
    """
    stopped = threading.Event()

    def handle(signum: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)


def line_reader(interactive: bool) -> Callable[[], str]:
    """A function that reads one line: with editing and history on a terminal, else plainly."""
    if not interactive:
        return lambda: input("> " if sys.stdin.isatty() else "")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    from litellama.checkpoints import cache_dir

    history: History = InMemoryHistory()
    with contextlib.suppress(OSError):  # a cache folder that cannot be written: no memory, no harm
        cache_dir().mkdir(parents=True, exist_ok=True)
        path = cache_dir() / "chat_history"
        path.touch(mode=0o600)
        history = FileHistory(str(path))
    session: PromptSession[str] = PromptSession(history=history)
    return lambda: session.prompt("> ")


def command(conversation: Conversation, line: str) -> bool:
    """Carry out a ``/command``; False when it asks to leave."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/quit":
        return False
    if name == "/reset":
        conversation.reset()
        notice("Started again.")
    elif name == "/system":
        if rest:
            conversation.system = rest
            conversation.reset()
            notice("System prompt set; started again.")
        else:
            notice(conversation.system or "No system prompt was set.")
    elif name == "/params":
        conversation.set_params(rest.split())
        notice(", ".join(f"{k}={v!r}" for k, v in dataclasses.asdict(conversation.params).items()))
    elif name == "/image":
        conversation.show_image(rest)
        notice(f"{rest} goes with the next message.")
    elif name == "/help":
        notice(HELP)
    else:
        raise ValueError(f"there is no command {name}; /help lists them")
    return True


def turn(conversation: Conversation, line: str, markdown: bool) -> bool:
    """One line of the reader's: a command or a message.  False when it asks to leave."""
    if not line.strip():
        return True
    if line.startswith("/"):
        return command(conversation, line.strip())
    screen = Screen(stdout(), markdown)
    try:
        with stop_on_ctrl_c() as stopped:
            answer = conversation.answer(line, screen.add, stopped)
    finally:
        screen.close()
    notice(str(answer))
    return True


def chat(
    model: options.Model = "smollm2",
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    temperature: options.Temperature = options.TEMPERATURE,
    top_k: options.TopK = 0,
    top_p: options.TopP = options.TOP_P,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    max_tokens: options.MaxTokens = 512,
    seed: options.Seed = None,
    plain: Annotated[bool, typer.Option("--plain", help="Do not render Markdown.")] = False,
    image: Annotated[
        list[str] | None, typer.Option(help="A picture to talk about (repeat for several).")
    ] = None,
) -> None:
    """Talk with a model in the terminal, about pictures too if it reads them."""
    from litellama import SamplingParams

    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, max_tokens=max_tokens, seed=seed,
    )  # fmt: skip
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    for path in image or []:
        load_picture(path)  # a wrong file is said before the model is loaded
    conversation = Conversation(options.load(model, device, dtype), params, system)
    for path in image or []:
        conversation.show_image(path)
    reads = "text only" if conversation.llm.config.vision is None else "text and pictures"
    notice(f"It reads {reads}. /help lists the commands, Ctrl-D leaves.")
    read = line_reader(terminal)
    while True:
        try:
            if not turn(conversation, read(), markdown=terminal and not plain):
                return
        except KeyboardInterrupt:
            notice("Ctrl-D or /quit leaves.")
        except EOFError:
            return
        except (ValueError, EngineError) as error:
            complain(str(error))
