"""The chat of lesson 18 without a browser: what is said, what is measured, what is refused."""

import base64
import io
import json
import time
from html.parser import HTMLParser

import pytest
from PIL import Image

from litellama import LLM, SamplingParams
from litellama.course.chat import Chat
from litellama.course.chat.conversation import MAX_FILE, Exchange, from_file, read_picture, to_file
from litellama.course.chat.inspector import inspect
from litellama.course.chat.markdown import ELEMENTS, html, tree
from litellama.course.chat.meter import Meter
from litellama.course.chat.widget import HERE, read_seed
from litellama.errors import ConversationError, RequestError
from tests.checkpoint_maker import make_llava

SEEDED = {"temperature": 0.9, "top_p": 0.9, "seed": 5, "max_tokens": 24}


@pytest.fixture(scope="module")
def llm(tiny_llama) -> LLM:
    return LLM(tiny_llama, device="cpu", dtype="float32", block_size=8)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> LLM:
    folder = make_llava(tmp_path_factory.mktemp("llava"))
    return LLM(folder, device="cpu", dtype="float32", block_size=4)


@pytest.fixture
def chat(llm) -> Chat:
    return Chat(llm, **SEEDED)


class Page:
    """The browser's side: sends a message, and waits for what comes back."""

    def __init__(self, chat: Chat, monkeypatch) -> None:
        self.chat, self.answers = chat, []
        monkeypatch.setattr(
            chat, "send", lambda content, buffers=None: self.answers.append(content)
        )

    def __call__(self, do: str, *buffers: bytes, **content) -> dict:
        number = len(self.answers)
        self.chat._receive(self.chat, {"do": do, "n": f"{number}", **content}, list(buffers))
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for answer in self.answers:
                if answer.get("re") == f"{number}":
                    return answer
            time.sleep(0.01)
        raise AssertionError(f"no answer to {do}")


@pytest.fixture
def page(chat, monkeypatch) -> Page:
    return Page(chat, monkeypatch)


def long_answer(chat: Chat) -> None:
    """Settings of an answer that takes a while."""
    chat.talk.params = SamplingParams(seed=1, max_tokens=400, ignore_eos=True)


# --- conversations -------------------------------------------------------------------------------


def test_an_answer_is_the_engines_for_that_seed(chat, llm):
    chat.ask("hello")
    chat.ask("hello again")
    asked = [{"role": "user", "content": "hello"}]
    first = llm.chat(asked, SamplingParams(**SEEDED))
    said = [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "hello again"},
    ]
    second = llm.chat([*asked, *said], SamplingParams(**SEEDED))
    assert [e.answer for e in chat.talk.exchanges] == [first.text, second.text]
    assert [e.answer_ids for e in chat.talk.exchanges] == [first.token_ids, second.token_ids]
    assert [e["status"] for e in chat.exchanges] == [first.finish_reason, second.finish_reason]


def test_the_system_prompt_is_said_first(chat, llm):
    chat.talk.system = "hello hello"
    chat.ask("hello")
    messages = [{"role": "system", "content": "hello hello"}, {"role": "user", "content": "hello"}]
    assert chat.talk.exchanges[0].prompt_ids == llm.chat_prompt(messages)


def test_a_drawn_seed_is_shown_and_repeats_the_answer(llm):
    first, second = Chat(llm, max_tokens=24), Chat(llm, max_tokens=24)
    first.ask("hello")
    second.talk.params = first.talk.exchanges[0].params
    assert second.ask("hello") == first.talk.exchanges[0].answer
    assert first.exchanges[0]["stats"]["seed"] == second.settings["seed"] != ""
    assert first.settings["seed"] == ""


def test_a_second_message_finds_the_first_in_the_cache(chat):
    chat.ask("hello " * 10)
    chat.ask("more")
    first, second = (e["stats"] for e in chat.exchanges)
    assert second["cached"] >= first["prompt"] // 8 * 8 > 0
    assert sum(fill[0] for fill in second["fills"]) == second["cached"]


def test_regenerate_and_edit_replace_the_last_exchange(chat):
    chat.ask("hello")
    first = chat.ask("one")
    chat.talk.regenerate()
    chat.talk.wait()
    assert [e.question for e in chat.talk.exchanges] == ["hello", "one"]
    assert chat.talk.exchanges[-1].answer == first  # the seed is fixed
    chat.talk.edit_last("two")
    chat.talk.wait()
    assert [e.question for e in chat.talk.exchanges] == ["hello", "two"]


def test_an_answer_streams_on_its_own_thread_and_stops_at_once(chat, llm):
    long_answer(chat)
    chat.talk.send("hello")
    seen = set()
    while len(seen) < 3:
        assert chat.talk.busy
        seen.add(len((chat.live or {}).get("text", "")))
        time.sleep(0.02)
    start = time.monotonic()
    chat.talk.stop()
    assert chat.talk.wait(5)
    assert time.monotonic() - start < 1
    last = chat.exchanges[-1]
    assert chat.live is None
    assert last["status"] == "aborted"
    assert last["note"] == "stopped"
    assert 0 < last["stats"]["tokens"] < 400
    assert llm.engine.stats().running == llm.engine.stats().waiting == 0
    chat.talk.params = SamplingParams(**SEEDED)
    assert chat.ask("hello")  # and it goes on


def test_a_page_is_heard_where_it_asks_to_be(chat):
    """And not where the kernel spoke last, which may be for a page that has been reloaded."""
    from ipykernel.comm.comm import BaseComm

    chat.comm = BaseComm(target_name="jupyter.widget", primary=False)
    chat.comm._reply_subshell_id = "of a page that is gone"
    assert chat.comm._reply_subshell_for({}, "of this page") == "of this page"


def test_two_chats_stream_at_once_on_one_engine(llm):
    chats = [Chat(llm), Chat(llm)]
    for number, chat in enumerate(chats):
        chat.talk.params = SamplingParams(seed=number, max_tokens=300, ignore_eos=True)
        chat.talk.send(f"hello {number}")
    most = 0
    while any(chat.talk.busy for chat in chats):
        most = max(most, llm.engine.stats().running)
        time.sleep(0.005)
    assert most == 2
    for number, chat in enumerate(chats):
        params = chat.talk.exchanges[0].params
        alone = llm.chat([{"role": "user", "content": f"hello {number}"}], params)
        assert chat.talk.exchanges[0].answer == alone.text


def test_when_the_context_is_full_the_oldest_are_left_out_and_that_is_said(chat):
    for number in range(4):
        chat.ask(f"{number} " + "word " * 60)
    assert "oldest" in chat.exchanges[-1]["note"]
    assert len(chat.exchanges) == 4


def test_a_failing_step_is_said_and_the_chat_goes_on(chat, monkeypatch):
    def fail(step):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(chat.talk.llm.engine.runner, "submit", fail)
        with pytest.raises(ConversationError, match="no memory left"):
            chat.ask("hello")
    assert chat.exchanges[-1]["status"] == "failed"
    chat.talk.regenerate()
    chat.talk.wait()
    assert chat.exchanges[-1]["status"] in ("stop", "length")


def test_a_page_that_cannot_be_drawn_is_said_and_the_answer_is_whole(chat, llm, monkeypatch):
    told = []
    monkeypatch.setattr(chat, "send", lambda content, buffers=None: told.append(content))
    monkeypatch.setattr("litellama.course.chat.widget.tree", lambda text: 1 / 0)
    said = chat.ask("hello")
    assert said == llm.chat([{"role": "user", "content": "hello"}], SamplingParams(**SEEDED)).text
    assert "ZeroDivisionError" in told[-1]["notice"]


# --- what is pressed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"do": "send", "text": " \n"}, "empty"),
        ({"do": "send", "text": "hello " * 20_000}, "too long"),
        ({"do": "regenerate"}, "no answer to make again"),
        ({"do": "send", "edit": True, "text": "hello"}, "no message to edit"),
        ({"do": "settings", "values": {"top_p": 1.7}}, "top_p must be"),
        ({"do": "settings", "values": {"seed": "-1"}}, "seed must be"),
        ({"do": "settings", "values": {"seed": "seven"}}, "seed must be"),
        ({"do": "load", "text": "{", "name": "talk.json"}, "talk.json is no conversation"),
        ({"do": "model", "name": ""}, "Which model"),
        ({"do": "model", "name": "/no/such/folder"}, "could not be loaded"),
        ({"do": "picture"}, "reads text only"),
        ({"do": "inspect", "exchange": 0, "token": 0}, "IndexError"),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_said_and_changes_nothing(page, chat, message, words):
    before = (chat.talk.params, chat.exchanges, chat.about["name"])
    assert words in page(**message)["error"]
    assert (chat.talk.params, chat.exchanges, chat.about["name"]) == before
    assert page("send", text="hello")["error"] is None
    assert chat.talk.wait(20)
    assert chat.exchanges[-1]["status"] in ("stop", "length")


def test_while_an_answer_comes_nothing_else_is_begun(page, chat):
    long_answer(chat)
    assert page("send", text="hello")["error"] is None
    for message in (
        {"do": "send", "text": "and this"},
        {"do": "regenerate"},
        {"do": "send", "text": "x", "edit": True},
        {"do": "load", "text": to_file("", []), "name": "x"},
        {"do": "model", "name": "smollm2"},
    ):
        assert "still coming" in page(**message)["error"]
    assert page("ping")["error"] is None
    assert page("clear")["error"] is None
    assert chat.exchanges == []
    assert chat.live is None


def test_settings_and_system_prompt_are_those_of_the_page(page, chat):
    page("settings", values={"temperature": 0, "top_k": 3, "seed": "9007199254740993", "stop": "x"})
    page("system", text="Be brief.")
    assert chat.talk.params == SamplingParams(
        temperature=0, top_p=0.9, top_k=3, seed=9007199254740993, max_tokens=24
    )
    assert (chat.settings["seed"], chat.system) == ("9007199254740993", "Be brief.")
    assert read_seed(" ") is None


def test_a_model_that_cannot_be_loaded_is_said_when_the_chat_is_made(monkeypatch):
    told = []
    monkeypatch.setattr(Chat, "send", lambda self, content, buffers=None: told.append(content))
    chat = Chat("/no/such/model")
    while chat.about["loading"] or not told:
        time.sleep(0.01)
    assert "could not be loaded" in told[-1]["notice"]
    with pytest.raises(ConversationError, match="No model is loaded yet"):
        chat.ask("hello")


def test_a_loaded_model_is_shared_by_its_name(page, chat, llm, tiny_llama):
    other = Chat(str(tiny_llama))
    while other.about["loading"]:
        time.sleep(0.01)
    assert other.talk.llm is llm


# --- inside a token ------------------------------------------------------------------------------


def test_the_candidates_of_a_token(chat, llm, page):
    chat.ask("hello")
    exchange = chat.talk.exchanges[0]
    for index in range(len(exchange.answer_ids)):
        found = inspect(llm, exchange, index)
        drawn = next(row for row in found.rows if row.token_id == found.drawn)
        assert drawn.chance > 0
        assert found.rank < found.kept <= found.total == llm.config.vocab_size
        # Top-p keeps the likeliest: from the cut on, nothing can be drawn.
        chances = [row.chance for row in found.rows[:10]]
        assert all(chances[: found.kept])
        assert not any(chances[found.kept :])
    table = page("inspect", exchange=0, token=2)["inspection"]
    assert table["text"] == llm.tokenizer.decode([exchange.answer_ids[2]])
    assert [row["drawn"] for row in table["rows"]].count(True) == 1
    assert "top-p 0.9" in table["dials"]
    assert "no token 99" in page("inspect", exchange=0, token=99)["error"]


def test_an_answer_of_another_model_has_no_candidates(chat, page):
    chat.ask("hello")
    chat.talk.exchanges[0].model = "another"
    assert "another wrote this" in page("inspect", exchange=0, token=0)["error"]


# --- measured ------------------------------------------------------------------------------------


def test_the_meter_counts_where_tokens_come_from():
    meter = Meter(4, started=0.0, first=0.5, last=2.5)
    meter.prompt_tokens, meter.cached_tokens, meter.tokens = 10, 4, 5
    meter.computed, meter.blocks = 14, 4
    assert meter.fills() == [(4, 0, 0), (0, 4, 0), (0, 2, 2), (0, 0, 2)]
    assert meter.first_token == 0.5
    assert meter.rate == 2.0


# --- pictures ------------------------------------------------------------------------------------


def picture(colour: str = "red", size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_goes_with_the_next_message_and_is_seen(llava, monkeypatch):
    chat = Chat(llava, **SEEDED)
    page = Page(chat, monkeypatch)
    assert page("picture", picture("red"))["error"] is None
    assert len(chat.pictures) == 1
    page("send", text="hello")
    chat.talk.wait()
    assert chat.pictures == []
    assert chat.exchanges[0]["pictures"][0].startswith("data:image/png;base64,")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}]
    expected = llava.chat(asked, SamplingParams(**SEEDED), [Image.new("RGB", (40, 40), "red")])
    assert chat.talk.exchanges[0].answer == expected.text
    inspected = page("inspect", exchange=0, token=1)
    assert inspected["error"] is None
    page("picture", picture("blue"))
    page("no pictures")
    assert chat.pictures == []


@pytest.mark.parametrize(
    "data", [b"", b"no picture", picture()[:-30], b"<svg onload=alert(1)>"],
    ids=["empty", "text", "cut", "svg"],
)  # fmt: skip
def test_a_broken_picture_is_said(llava, monkeypatch, data):
    chat = Chat(llava, **SEEDED)
    page = Page(chat, monkeypatch)
    assert "picture" in page("picture", data)["error"]
    assert chat.pictures == []


def test_a_picture_is_kept_at_a_size_worth_keeping():
    assert read_picture(picture(size=3000)).size == (1024, 1024)
    with pytest.raises(RequestError, match="make it smaller"):
        read_picture(bytes(MAX_FILE + 1))


# --- files ---------------------------------------------------------------------------------------


def test_a_conversation_is_saved_and_goes_on_after_loading(llm, tmp_path):
    saved, loaded = Chat(llm, system="hello", **SEEDED), Chat(llm, **SEEDED)
    saved.ask("hello")
    saved.save(tmp_path / "talk.json")
    loaded.load(tmp_path / "talk.json")
    assert loaded.system == "hello"
    assert [e["text"] for e in loaded.exchanges] == [e["text"] for e in saved.exchanges]
    assert loaded.exchanges[0]["tokens"] == []
    assert loaded.ask("more") == saved.ask("more")


def test_pictures_are_saved():
    exchange = Exchange("what is it", [read_picture(picture("blue"))], "a square")
    system, (again,) = from_file(to_file("be kind", [exchange]))
    assert (system, again.question, again.answer) == ("be kind", "what is it", "a square")
    assert again.pictures[0].getpixel((3, 3)) == (0, 0, 255)


GOOD = {"format": "litellama conversation", "version": 1, "system": "", "messages": []}
USER = {"role": "user", "content": "x"}
SAID = {"role": "assistant", "content": "y"}
BROKEN = base64.b64encode(b"no picture").decode()


@pytest.mark.parametrize(
    "text",
    [
        "", "no JSON", "[" * 100_000, "[]", "null", '"x"', "{}", json.dumps(GOOD)[:-9],
        *(json.dumps(GOOD | more) for more in (
            {"version": 2}, {"system": 7}, {"messages": None}, {"messages": [7, 8]},
            {"messages": [USER]}, {"messages": [SAID, USER]}, {"messages": [USER, USER]},
            {"messages": [USER | {"content": 7}, SAID]},
            {"messages": [USER | {"pictures": "x"}, SAID]},
            {"messages": [USER | {"pictures": ["?"]}, SAID]},
            {"messages": [USER | {"pictures": [BROKEN]}, SAID]},
        )),
        " " * (MAX_FILE + 1),
    ],
    ids=range(20),
)  # fmt: skip
def test_what_is_no_conversation_is_refused(text):
    with pytest.raises(ConversationError, match=r"talk\.json is no conversation"):
        from_file(text, "talk.json")


def test_a_file_that_is_not_text_is_refused_and_the_conversation_stays(chat, tmp_path):
    chat.ask("hello")
    path = tmp_path / "talk.json"
    path.write_bytes(b"\xff\xfe\x00")
    for wrong in (path, tmp_path / "missing.json"):
        with pytest.raises(ConversationError, match="cannot be read"):
            chat.load(wrong)
    assert len(chat.exchanges) == 1


# --- what is written is text ---------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![beacon](https://example.org/beacon.png)",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](vbscript:x)",
    "[click](//example.org/x)",
    "[click][1]\n\n[1]: javascript:alert(1)",
    "<javascript:alert(1)>",
    '[x](https://a.b/"onmouseover="alert(1))',
    "<iframe src=https://example.org></iframe>",
    "<svg/onload=alert(1)>",
    "<style>*{display:none}</style>",
    "<a href='javascript:alert(1)'>x</a>",
    "```html\n<script>alert(1)</script>\n```",
    "`<b>`",
    "a <b onclick=alert(1)>b</b>",
    "<!-- x --> <details open ontoggle=alert(1)>",
    "[x](https://[::1)",
]


class Tags(HTMLParser):
    """The names of all elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def elements(nodes):
    for node in nodes:
        if not isinstance(node, str):
            yield node
            yield from elements(node["children"])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    for element in elements(tree(text)):
        assert element["tag"] in ELEMENTS
        assert set(element) <= {"tag", "children", "href", "start"}
        assert element.get("href", "https:").startswith(("https:", "http:", "mailto:"))
    parser = Tags()
    parser.feed(html(tree(text)))
    assert parser.found <= {*ELEMENTS, "href", "start"}


def test_what_chat_models_write_is_shown_as_they_mean_it():
    text = "# A\n\n- **b** and *c* ~~d~~\n- `e`\n\n3. f\n\n| g | h |\n|---|---|\n| 1 | 2 |\n\ni\nj"
    shown = html(tree(text))
    for part in (
        "<h4>A</h4>", "<li><strong>b</strong> and <em>c</em> <s>d</s></li>", "<code>e</code>",
        '<ol start="3"><li>f</li></ol>', "<th>g</th>", "<td>2</td>", "<p>i<br>j</p>",
    ):  # fmt: skip
        assert part in shown
    assert html(tree("[x](https://a.b/c)")) == '<p><a href="https://a.b/c">x</a></p>'
    assert html(tree("```\n<x>\n```")) == "<pre><code>&lt;x&gt;\n</code></pre>"


def test_a_very_long_text_is_shown_plainly_and_soon():
    start = time.monotonic()
    assert tree("[" * 100_000) == [{"tag": "pre", "children": ["[" * 100_000]}]
    tree("[" * 50_000)
    tree("> " * 25_000)
    tree("*a_ " * 12_500)
    assert time.monotonic() - start < 20


def test_the_page_makes_the_same_elements_and_no_markup():
    script = (HERE / "view.js").read_text(encoding="utf-8")
    listed = script.split("const ELEMENTS = new Set(")[1].split('"')[1].split()
    assert set(listed) == ELEMENTS
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in script


def test_readers_without_widgets_see_the_conversation(chat):
    chat.ask("<b>hello</b>")
    data, _ = chat._repr_mimebundle_()
    assert "&lt;b&gt;hello&lt;/b&gt;" in data["text/html"]
    assert "0x" not in data["text/plain"]
