"""`litellama chat`: the conversation by itself, and the program on a pseudo-terminal."""

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from litellama import LLM, SamplingParams
from litellama.cli import chat
from litellama.errors import EngineError
from tests.checkpoint_maker import make_llava
from tests.fake_chat import FakeLLM

ROOT = Path(__file__).parents[1]


def converse(llm: object, **params: object) -> chat.Conversation:
    return chat.Conversation(llm, SamplingParams(**params), None)  # type: ignore[arg-type]


def say(conversation: chat.Conversation, message: str) -> chat.Answer:
    return conversation.answer(message, lambda piece: None, threading.Event())


# The conversation


def test_the_history_is_sent_along() -> None:
    conversation = converse(FakeLLM())
    say(conversation, "one")
    answer = say(conversation, "two")
    assert answer.text == "user: one | assistant: user: one | user: two "
    assert answer.finish_reason == "stop"
    assert answer.tokens == len(answer.text.split())


def test_stopping_keeps_what_was_said_and_frees_the_request() -> None:
    llm = FakeLLM()
    conversation = converse(llm, max_tokens=40)
    pieces: list[str] = []
    stopped = threading.Event()

    def show(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            stopped.set()

    answer = conversation.answer("count", show, stopped)
    assert answer.finish_reason == "aborted"
    assert answer.text == "number1 number2 number3 " == "".join(pieces)
    assert answer.tokens == 3
    assert conversation.messages[-1] == {"role": "assistant", "content": answer.text}
    assert llm.closed == 1


def test_the_oldest_exchange_is_dropped_when_the_context_is_full(
    capsys: pytest.CaptureFixture[str],
) -> None:
    conversation = converse(FakeLLM(max_seq_len=20), max_tokens=8)
    for message in ("first", "second", "third"):
        say(conversation, message)
    contents = " ".join(m["content"] for m in conversation.messages if m["role"] == "user")
    assert contents == "second third"
    assert "forgot the oldest 1 exchange(s)" in capsys.readouterr().err


def test_a_message_longer_than_the_context_is_refused_and_forgotten() -> None:
    conversation = converse(FakeLLM(max_seq_len=10))
    with pytest.raises(ValueError, match=r"the message is too long: 12 tokens .* holds 10"):
        say(conversation, "word " * 12)
    assert conversation.messages == []
    assert say(conversation, "short").text == "user: short "


def test_a_message_too_long_costs_no_other(tiny_llama: Path) -> None:
    llm = LLM(tiny_llama, device="cpu", max_seq_len=64)
    conversation = converse(llm, temperature=0.0, max_tokens=4, ignore_eos=True)
    say(conversation, "a")
    say(conversation, "b")
    before = list(conversation.messages)
    assert len(before) == 4
    with pytest.raises(ValueError, match="the message is too long"):
        say(conversation, "word " * 60)
    assert conversation.messages == before


def test_a_message_whose_answer_fails_is_taken_back(tiny_llama: Path) -> None:
    conversation = converse(LLM(tiny_llama, device="cpu"), temperature=0.0, max_tokens=4)
    say(conversation, "a")
    before = list(conversation.messages)

    def fail(step: object) -> None:
        raise ZeroDivisionError("injected")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation.llm.engine.runner, "submit", fail)
        with pytest.raises(EngineError, match="injected"):
            say(conversation, "b")
    assert conversation.messages == before
    assert say(conversation, "b").tokens > 0


def test_with_the_engine(tiny_llama: Path) -> None:
    """A stopped answer leaves the engine as it was: the next answer is that of a fresh one."""
    conversation = converse(LLM(tiny_llama, device="cpu"), temperature=0.0, max_tokens=20)
    stopped = threading.Event()
    conversation.answer("hello", lambda piece: stopped.set(), stopped)
    conversation.reset()
    after_a_stop = say(conversation, "hello")
    fresh = say(converse(LLM(tiny_llama, device="cpu"), temperature=0.0, max_tokens=20), "hello")
    assert after_a_stop.text == fresh.text
    assert after_a_stop.tokens == fresh.tokens > 0
    assert fresh.finish_reason in ("stop", "length")


def test_the_engine_drops_exchanges_that_do_not_fit(tiny_llama: Path) -> None:
    llm = LLM(tiny_llama, device="cpu", max_seq_len=64)
    conversation = converse(llm, temperature=0.0, max_tokens=16, ignore_eos=True)
    for _ in range(6):
        say(conversation, "tell me")
    ids, _ = conversation.prompt()
    assert len(ids) <= 64
    assert conversation.messages[0]["role"] == "user"


@pytest.fixture
def llava(tmp_path: Path) -> LLM:
    return LLM(make_llava(tmp_path), device="cpu", max_seq_len=80)


def paint(folder: Path, colour: str) -> str:
    path = folder / f"{colour}.png"
    Image.new("RGB", (40, 30), colour).save(path)
    return str(path)


def test_a_picture_goes_with_the_next_message_and_stays_in_the_conversation(
    llava: LLM, tmp_path: Path
) -> None:
    params = {"temperature": 0.0, "max_tokens": 4, "ignore_eos": True}
    conversation = converse(llava, **params)
    assert chat.command(conversation, f"/image {paint(tmp_path, 'red')}")
    say(conversation, "hello")
    assert (len(conversation.images), conversation.shown) == (1, [])
    said = say(conversation, "and now")
    messages = [
        {"role": "user", "content": "<image>\nhello"},
        conversation.messages[1],
        {"role": "user", "content": "and now"},
    ]
    again = llava.chat(messages, SamplingParams(**params), [Image.new("RGB", (40, 30), "red")])
    assert said.text == again.text
    conversation.reset()
    assert conversation.images == []


def test_a_dropped_exchange_takes_its_picture_along(llava: LLM, tmp_path: Path) -> None:
    conversation = converse(llava, temperature=0.0, max_tokens=16, ignore_eos=True)
    for colour in ("red", "green", "blue"):
        conversation.show_image(paint(tmp_path, colour))
        say(conversation, "hello")
    assert len(conversation.images) == sum(map(chat.num_images, conversation.messages)) == 1
    assert conversation.images[0].getpixel((0, 0)) == (0, 0, 255)


def test_a_refused_message_keeps_its_picture_for_the_next(llava: LLM, tmp_path: Path) -> None:
    conversation = converse(llava, temperature=0.0, max_tokens=4)
    conversation.show_image(paint(tmp_path, "red"))
    with pytest.raises(ValueError, match="too long"):
        say(conversation, "word " * 60)
    assert (len(conversation.images), len(conversation.shown)) == (0, 1)
    say(conversation, "hello")
    assert (len(conversation.images), len(conversation.shown)) == (1, 0)


def test_pictures_that_cannot_be_shown_are_refused(llava: LLM, tmp_path: Path) -> None:
    conversation = converse(llava)
    with pytest.raises(ValueError, match=r"nowhere\.png cannot be read"):
        conversation.show_image(str(tmp_path / "nowhere.png"))
    with pytest.raises(ValueError, match="reads text only"):
        converse(FakeLLM()).show_image(paint(tmp_path, "red"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature=0", ("temperature", 0.0)),
        ("top_k=40", ("top_k", 40)),
        ("seed=none", ("seed", None)),
        ("seed=3", ("seed", 3)),
        ("ignore_eos=true", ("ignore_eos", True)),
        ("stop=END", ("stop", ("END",))),
        ("stop=", ("stop", ())),
    ],
)
def test_assignments(text: str, expected: tuple) -> None:
    assert chat.parse_assignment(text, SamplingParams()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature", "not NAME=VALUE"),
        ("warmth=1", "NAME among temperature"),
        ("top_k=2.5", "top_k is a whole number, got '2.5'"),
        ("top_p=much", "top_p is a number, got 'much'"),
        ("ignore_eos=1", "true or false"),
        ("top_p=1.7", "top_p must be"),
    ],
)
def test_a_wrong_assignment_changes_nothing(text: str, message: str) -> None:
    conversation = converse(FakeLLM())
    before = conversation.params
    with pytest.raises(ValueError, match=re.escape(message)):
        conversation.set_params(["top_k=3", text])
    assert conversation.params == before


# The screen


@pytest.mark.parametrize(
    ("text", "done", "tail"),
    [
        ("one", "", "one"),
        ("one\n\ntwo", "one\n\n", "two"),
        ("```\na\n\nb", "", "```\na\n\nb"),
        ("```\na\n\nb\n```\n\nend", "```\na\n\nb\n```\n\n", "end"),
        ("one\n   ", "", "one\n   "),
    ],
)
def test_blocks(text: str, done: str, tail: str) -> None:
    assert chat.split_blocks(text) == (done, tail)


def test_markdown_keeps_line_breaks_and_angle_brackets() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(chat.render("roses are red\nviolets <b> & blue\n\n```\nif a < b:\n```"))
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert lines[:2] == ["roses are red", "violets <b> & blue"]
    assert "if a < b:" in lines


def test_every_word_reaches_a_terminal_even_a_small_one() -> None:
    """Blocks taller than the window included: what scrolls away must have been printed whole."""
    words = [f"word{n:03d}" for n in range(300)]
    console = Console(width=40, height=6, record=True, force_terminal=True, file=io.StringIO())
    screen = chat.Screen(console, markdown=True)
    for n, word in enumerate(words):
        screen.add(word + ("\n\n" if n % 50 == 49 else " "))
    screen.close()
    shown = console.export_text()
    positions = [shown.rfind(word) for word in words]
    assert min(positions) >= 0
    assert positions == sorted(positions)


# The program, on a pseudo-terminal


class Terminal:
    """A program on a pseudo-terminal of 24 lines and 80 columns."""

    def __init__(self, home: Path, *arguments: str, term: str = "xterm") -> None:
        self.fd, inner = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        settings = {"TERM": term, "LITELLAMA_HOME": str(home), "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_chat", *arguments],
            stdin=inner, stdout=inner, stderr=inner, cwd=ROOT, env=os.environ | settings,
            start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self.text = ""
        self.position = 0

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, seconds: float = 30) -> str:
        """Wait until ``pattern`` is shown after what was expected before; what came until then."""
        if (before := self._find(pattern, seconds)) is None:
            pytest.fail(f"{pattern!r} did not appear; shown:\n{self.text[self.position :]}")
        return before

    def press(self, keys: str, pattern: str) -> None:
        """Type ``keys`` until ``pattern`` is shown."""
        for _ in range(15):
            self.type(keys)
            if self._find(pattern, 1) is not None:
                return
        pytest.fail(f"{pattern!r} did not appear; shown:\n{self.text[self.position :]}")

    def _find(self, pattern: str, seconds: float) -> str | None:
        deadline = time.monotonic() + seconds
        while not (found := re.compile(pattern).search(self.text, self.position)):
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                return None
        before = self.text[self.position : found.end()]
        self.position = found.end()
        return before

    def _read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the program has ended
            return False
        escapes = r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r"
        self.text += re.sub(escapes, "", data.decode(errors="replace"))
        return bool(data)

    def end(self, keys: str) -> int:
        """Type ``keys`` until the program has ended; its exit status.

        More than once, because Ctrl-D typed while the terminal passes from line mode to the
        prompt's raw mode is lost to both.
        """
        for _ in range(15):
            with contextlib.suppress(OSError):
                self.type(keys)
            while self._read(0.5):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=1)
        pytest.fail(f"the program did not end; the terminal shows:\n{self.text[-500:]}")


@pytest.fixture(params=["xterm", "dumb"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, "--seed", "5", term=request.param)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.fd)


def test_a_session_in_a_terminal(terminal: Terminal) -> None:
    terminal.expect("It reads text only")
    terminal.expect(">")
    terminal.type("/params top_k=7\r")
    terminal.expect("top_k=7.*seed=5")
    terminal.type("/nonsense\r")
    terminal.expect("there is no command /nonsense")

    terminal.type("count\r")
    terminal.expect("number4")
    terminal.type("\x03")  # Ctrl-C
    terminal.expect("stopped by Ctrl-C")
    terminal.type("what now?\r")  # the program goes on, and knows what was said
    terminal.expect("user: count")
    terminal.expect("number3")
    terminal.expect(r"tokens/s, finished")

    terminal.type("/reset\r")
    terminal.expect("Started again")
    terminal.type("/system Be kind.\r")
    terminal.expect("System prompt set")
    terminal.type("who?\r")
    said = terminal.expect("tokens/s, finished\\s*>")
    assert "system: Be kind" in said
    assert "count" not in said, "what was said before /reset came back"

    # At the prompt: a reminder, not the end.  Pressed again if it came just before the waiting.
    terminal.press("\x03", "Ctrl-D or /quit leaves")
    assert terminal.end("\x04") == 0


def test_quit_leaves_and_the_lines_are_remembered(tmp_path: Path) -> None:
    for round_, keys in enumerate(["remember this\r", "\x1b[A\r"]):  # then: the up arrow
        terminal = Terminal(tmp_path)
        terminal.expect(">")
        terminal.type(keys)
        terminal.expect("user: remember this")
        terminal.expect("finished")
        # The up arrow finds the newest line, so the last one must be the message itself.
        assert terminal.end("\x04" if round_ == 0 else "/quit\r") == 0
        os.close(terminal.fd)
    assert (tmp_path / "chat_history").stat().st_mode & 0o077 == 0, "others can read the history"


def test_piped(tiny_llama: Path) -> None:
    """Lines in, answers out, notices on stderr, and nothing but text."""
    program = [sys.executable, "-m", "litellama.cli", "chat", "-m", str(tiny_llama)]
    done = subprocess.run(
        [*program, "--max-tokens", "8", "--temperature", "0"],
        input="hello\n/params top_k=2\nhello\n", capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("tokens/s") == 2
    assert "top_k=2" in done.stderr
    assert "top_k" not in done.stdout
    assert ">" not in done.stderr
