"""Lesson 18's chat in JupyterLab, as a reader uses it."""

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from litellama.course.chat.widget import HERE
from tests.browser.desk import ROOT, Desk, Lab, free_port, serve
from tests.checkpoint_maker import make_llama, make_llava

# What a page must never do because of a text.  The beacons lead nowhere; a request would be seen.
HOSTILE = """<script>window.hacked = 1</script>
<img src="http://beacon.invalid/a.png" onerror="window.hacked = 2">
![b](http://beacon.invalid/b.png)
[click](javascript:window.hacked=3) [click](JAVASCRIPT:window.hacked=3)
<a href="javascript:window.hacked=4">c</a> <svg onload="window.hacked=5"></svg>
<iframe src="http://beacon.invalid/d"></iframe> <style>* { display: none }</style>
<link rel=stylesheet href=http://beacon.invalid/e.css>

**bold** and `<b>code</b>`

| a | b |
|---|---|
| <img src=x onerror=window.hacked=6> | [x](data:text/html,<script>window.hacked=7</script>) |
"""
# Press Stop; the seconds until the page shows that the answer is over.
STOP = """() => new Promise(resolve => {
  const chat = document.querySelector('.llc');
  const start = performance.now();
  const over = () => chat.classList.contains('llc-busy')
    ? requestAnimationFrame(over) : resolve((performance.now() - start) / 1000);
  [...chat.querySelectorAll('button')].find(button => button.textContent === 'Stop').click();
  over();
})"""
COUNT = " ".join(f"number{i}" for i in range(90))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with a context long enough for long answers."""
    return make_llama(tmp_path_factory.mktemp("llama"), max_position_embeddings=4096)


def parrot_cells(folder: Path, text: str, pause: float, chats: str = "chat") -> list[str]:
    """The cells of a notebook with chats on one parrot."""
    first = (
        "from litellama.course.chat import Chat\nfrom tests.browser.parrot import parrot\n"
        f"llm = parrot({str(folder)!r}, {text!r}, {pause})"
    )
    return [first, *(f"{name} = Chat(llm, max_tokens=900)\n{name}" for name in chats.split())]


# --- the lesson ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesson(lab: Lab, browser, screenshots, smollm2) -> Desk:
    """Lesson 18 in JupyterLab, run from top to bottom, its chat in view."""
    for name in ("notebooks", "images"):
        shutil.copytree(ROOT / name, lab.folder / name, dirs_exist_ok=True)
    desk = Desk(browser, screenshots)
    desk.open(lab.address("notebooks/18_chat_demo.ipynb"))
    desk.run_all()
    desk.chat().scroll_into_view_if_needed()
    yield desk
    desk.page.close()


def in_kernel(desk: Desk, source: str) -> str:
    """Run code in a new last cell; what it printed."""
    desk.command("notebook:insert-cell-below")
    desk.page.locator(".jp-Cell.jp-mod-active .cm-content").fill(source)
    desk.command("notebook:run-cell")
    desk.settle()
    return desk.page.locator(".jp-Cell.jp-mod-active .jp-OutputArea-output").last.inner_text()


def test_lesson_18_runs_and_shows_its_chat(lesson):
    assert lesson.page.locator('[data-mime-type*="error"], [data-mime-type*="stderr"]').count() == 0
    assert lesson.chat().locator(".llc-exchange").count() == 1
    assert "smollm2" in lesson.chat().locator(".llc-title").inner_text()
    lesson.shot("lesson_1_run")


def test_a_typed_message_streams_and_equals_what_the_engine_gives(lesson):
    lesson.page.evaluate(
        "() => { window.seen = new Set();"
        " new MutationObserver(() => { const all = document.querySelectorAll('.llc-markdown');"
        " window.seen.add(all[all.length - 1].textContent); }).observe("
        " document.querySelector('.llc-log'), {childList: true, subtree: true}); }"
    )
    lesson.send("Name three animals.")
    lesson.page.wait_for_selector(".llc-busy")
    lesson.shot("lesson_2_streaming")
    lesson.wait_answer(2)
    assert lesson.page.evaluate("() => window.seen.size") > 4
    lesson.shot("lesson_3_answered")
    text = lesson.answer()
    given = in_kernel(
        lesson,
        "from litellama import SamplingParams\n"
        "asked = [{'role': 'user', 'content': e.question} for e in chat.talk.exchanges]\n"
        "said = {'role': 'assistant', 'content': chat.talk.exchanges[0].answer}\n"
        "dials = SamplingParams(temperature=0.8, top_p=0.9, seed=7, max_tokens=48)\n"
        "print(llm.chat([asked[0], said, asked[1]], dials).text)",
    )
    bare = re.compile(r"[\W_]+|\b\d+\. ")  # the marks of Markdown, and numbers of lists
    assert bare.sub(" ", text).split() == bare.sub(" ", given).split() != []


def test_a_second_message_finds_the_first_in_the_cache(lesson):
    inside = lesson.chat().locator(".llc-inside").inner_text()
    cached, prompt = map(int, re.search(r"(\d+) of (\d+) tokens", inside).groups())
    assert 32 <= cached < prompt
    assert re.search(r"tokens/s \d", inside)
    assert re.search(r"first token \d", inside)
    label = lesson.chat().locator(".llc-cells").get_attribute("aria-label")
    assert f"{cached} from the cache" in label


def test_top_p_changes_the_answer(lesson):
    before = lesson.answer()
    lesson.chat().get_by_text("Settings", exact=True).click()
    dial = lesson.chat().get_by_label("Top-p")
    dial.focus()
    lesson.page.keyboard.press("Home")
    assert dial.input_value() == "0.01"
    lesson.page.keyboard.press("Tab")
    lesson.chat().get_by_role("button", name="Regenerate").click()
    lesson.page.wait_for_selector(".llc-busy")
    lesson.wait_answer(2)
    assert lesson.answer() != before
    lesson.shot("lesson_4_top_p")


def test_the_token_inspector_opens_by_keyboard(lesson):
    summary = lesson.chat().locator("summary", has_text="tokens").last
    summary.focus()
    lesson.page.keyboard.press("Enter")
    lesson.page.keyboard.press("Tab")
    for _ in range(2):
        lesson.page.keyboard.press("ArrowRight")
    focused = lesson.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("token 3: ")
    lesson.page.keyboard.press("Enter")
    table = lesson.chat().locator(".llc-candidates table")
    table.wait_for()
    assert table.locator("tbody tr th").count() >= 10
    assert "cut here: 1 of 49152" in table.inner_text()  # top-p is 0.01
    assert table.locator(".llc-drawn").count() == 1
    lesson.shot("lesson_5_inspector")
    lesson.page.keyboard.press("Escape")
    back = lesson.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert back == focused


def test_stop_stops_within_a_second(lesson):
    # A long answer, however the model feels about it.
    in_kernel(
        lesson,
        "chat.talk.params = SamplingParams(temperature=0.8, seed=1, max_tokens=400, "
        "ignore_eos=True)\nprint('set')",
    )
    lesson.send("Tell me a long story about a ship.")
    lesson.page.wait_for_function(
        "() => [...document.querySelectorAll('.llc-busy .llc-markdown')].at(-1)"
        "?.innerText.split(' ').length > 6"
    )
    took = lesson.page.evaluate(STOP)
    lesson.wait_answer(3)
    inside = lesson.chat().locator(".llc-inside").inner_text()
    rate = float(re.search(r"tokens/s ([\d.]+)", inside)[1])
    assert took < 1 + 2 / rate  # a machine that is busy with other things may need long for a step
    assert "stopped" in lesson.chat().locator(".llc-model").last.inner_text()
    lesson.shot("lesson_6_stopped")


def test_the_console_of_the_lesson_shows_no_error(lesson):
    assert lesson.errors == []


# --- hostile and broken --------------------------------------------------------------------------


def test_hostile_text_does_not_run(lab, desk, folder):
    desk.open(lab.notebook("hostile", *parrot_cells(folder, HOSTILE, 0.003)))
    desk.run_all()
    desk.send(HOSTILE)
    desk.wait_answer(1)
    conversation = {
        "format": "litellama conversation", "version": 1, "system": HOSTILE,
        "messages": [{"role": role, "content": HOSTILE} for role in ("user", "assistant")],
    }  # fmt: skip
    (lab.folder / "hostile.json").write_text(json.dumps(conversation), encoding="utf-8")
    desk.shot("hostile_1_streamed")
    assert desk.chat().locator(".llc-markdown strong").inner_text() == "bold"
    desk.chat().get_by_label("A conversation file").set_input_files(lab.folder / "hostile.json")
    desk.page.wait_for_function("() => !document.querySelector('.llc-inside').textContent")
    desk.chat().locator(".llc-log").evaluate("log => { log.scrollTop = 0; }")
    desk.shot("hostile_2_loaded")
    assert desk.page.evaluate("() => window.hacked") is None
    inside = desk.chat().locator(".llc-log")
    assert inside.locator("img, script, iframe, svg, style, link").count() == 0
    for link in inside.locator("a").all():
        assert link.get_attribute("href").startswith("http://beacon.invalid/")
    assert not [url for url in desk.requests if "beacon" in url]
    assert desk.errors == []


def test_nothing_that_a_reader_does_breaks_the_chat(lab, desk, folder, tmp_path):
    """Empty, far too long, while an answer streams, corrupted: a clear word each time."""
    desk.open(lab.notebook("broken", *parrot_cells(folder, COUNT, 0.02), "print(6 * 7)"))
    desk.run_all()
    desk.send("   ")
    desk.page.wait_for_function("() => document.querySelector('.llc-alert').textContent")
    assert "empty" in desk.said()
    desk.send("word " * 20_000)
    desk.page.wait_for_function(
        "() => document.querySelector('.llc-alert').textContent.includes('too long')"
    )
    desk.shot("broken_1_too_long")
    box = desk.chat().get_by_label("Your message")
    assert len(box.input_value()) == 100_000  # still there, to be made shorter
    (tmp_path / "talk.json").write_text('{"format": "litellama conv')
    desk.chat().get_by_label("A conversation file").set_input_files(tmp_path / "talk.json")
    desk.page.wait_for_function(
        "() => document.querySelector('.llc-alert').textContent.includes('talk.json')"
    )
    desk.shot("broken_2_file")
    desk.send("count")
    desk.page.wait_for_selector(".llc-busy")
    desk.send("and on")
    desk.page.wait_for_function(
        "() => document.querySelector('.llc-alert').textContent.includes('still coming')"
    )
    assert box.input_value() == "and on"
    desk.page.locator(".jp-CodeCell").nth(2).locator(".cm-content").click()
    desk.command("notebook:run-cell")  # the notebook is free
    desk.settle()
    assert desk.chat().evaluate("chat => chat.classList.contains('llc-busy')")
    desk.shot("broken_3_while_streaming")
    box.press("Escape")
    desk.wait_answer(1)
    assert "stopped" in desk.chat().inner_text()
    desk.send("count")
    desk.wait_answer(2)
    assert desk.answer() == COUNT
    assert desk.said() == ""
    assert desk.errors == []


def test_edit_regenerate_clear_save_and_load(lab, desk, folder):
    desk.open(lab.notebook("edit", *parrot_cells(folder, "hello **there**", 0.01)))
    desk.run_all()
    chat = desk.chat()
    desk.send("one")
    desk.wait_answer(1)
    desk.send("two")
    desk.wait_answer(2)
    chat.get_by_role("button", name="Edit last").click()
    box = chat.get_by_label("Your message")
    assert box.input_value() == "two"
    box.fill("three")
    box.press("Enter")
    desk.page.wait_for_function("() => document.querySelector('.llc').innerText.includes('three')")
    desk.wait_answer(2)
    assert chat.locator(".llc-you .llc-text").all_inner_texts() == ["one", "three"]
    with desk.page.expect_download() as download:
        chat.get_by_role("button", name="Save").click()
    path = lab.folder / "conversation.json"
    download.value.save_as(path)
    assert json.loads(path.read_text())["messages"][2] == {"role": "user", "content": "three"}
    chat.get_by_role("button", name="Clear").click()
    desk.wait_answer(0)
    desk.shot("edit_1_cleared")
    chat.get_by_label("A conversation file").set_input_files(path)
    desk.wait_answer(2)
    assert desk.answer() == "hello there"
    desk.shot("edit_2_loaded")
    assert desk.errors == []


def test_two_chats_answer_at_once(lab, desk, folder):
    desk.open(lab.notebook("two", *parrot_cells(folder, COUNT, 0.005, "left right")))
    desk.run_all()
    desk.send("count", 0)
    desk.send("count too", 1)
    desk.page.wait_for_function("() => document.querySelectorAll('.llc-busy').length === 2")
    desk.page.wait_for_function(
        "() => [...document.querySelectorAll('.llc-busy .llc-markdown')].length === 2 &&"
        " [...document.querySelectorAll('.llc-markdown')].every("
        "e => e.innerText.includes('number5'))"
    )
    desk.shot("two_1_at_once")
    for index in (0, 1):
        desk.wait_answer(1, index)
        assert desk.answer(index) == COUNT
    assert desk.errors == []


def test_an_answer_goes_on_while_the_tab_is_closed(lab, desk, folder):
    desk.open(lab.notebook("closed", *parrot_cells(folder, COUNT[:300], 0.03)))
    desk.run_all()
    desk.send("count")
    desk.page.wait_for_selector(".llc-busy")
    save(desk)
    desk.page.goto("about:blank")
    desk.open(lab.address("closed.ipynb"))
    desk.page.wait_for_selector(".llc")
    desk.shot("closed_1_reopened")
    desk.wait_answer(1)
    assert desk.answer() == COUNT[:300]


def test_a_page_that_is_reloaded_while_an_answer_streams_is_heard(lab, desk, folder):
    """More than once: what the kernel remembers of a page that is gone must not matter."""
    desk.open(lab.notebook("reloaded", *parrot_cells(folder, COUNT, 0.05)))
    desk.run_all()
    desk.send("count")
    desk.page.wait_for_selector(".llc-busy")
    save(desk)
    for _ in range(3):
        desk.page.reload(wait_until="domcontentloaded")
        desk.page.wait_for_selector(".llc-busy")
    desk.chat().get_by_role("button", name="Stop").click()
    desk.wait_answer(1)
    assert "stopped" in desk.chat().inner_text()
    desk.send("and on")
    desk.page.wait_for_selector(".llc-busy")
    desk.shot("reloaded_1_heard")
    assert desk.chat().locator(".llc-you .llc-text").all_inner_texts() == ["count", "and on"]
    desk.chat().get_by_label("Your message").press("Escape")
    desk.wait_answer(2)
    assert desk.errors == []


def save(desk: Desk) -> None:
    """Save the notebook, so that what it shows is there when it is opened again."""
    desk.command("docmanager:save")
    desk.page.wait_for_function("() => !document.querySelector('.jp-mod-current.jp-mod-dirty')")


def test_two_views_show_one_chat(lab, desk, folder):
    cells = parrot_cells(folder, COUNT, 0.02)
    desk.open(lab.notebook("views", *cells, "chat"))
    desk.run_all()
    desk.send("count", 0)
    desk.page.wait_for_function("() => document.querySelectorAll('.llc-busy').length === 2")
    desk.chat(1).get_by_role("button", name="Stop").click()
    for index in (0, 1):
        desk.wait_answer(1, index)
    desk.shot("views_1_stopped")
    assert desk.answer(0) == desk.answer(1)
    assert COUNT.startswith(desk.answer(0))
    assert desk.errors == []


def test_a_killed_kernel_is_said_and_the_cell_can_be_run_again(lab, desk, folder):
    cells = parrot_cells(folder, COUNT[:300], 0.03)
    desk.open(lab.notebook("killed", *cells, "import os\nprint(os.getpid())"))
    desk.run_all()
    pid = int(desk.page.locator(".jp-OutputArea-output").last.inner_text())
    desk.send("count")
    desk.page.wait_for_function(
        "() => document.querySelector('.llc-markdown')?.innerText.includes('number1')"
    )
    os.kill(pid, signal.SIGKILL)
    desk.page.wait_for_function(
        "() => [...document.querySelectorAll('.llc-alert')].some("
        "e => e.textContent.includes('kernel does not answer'))"
    )
    assert "number1" in desk.answer()
    desk.shot("killed_1_said")
    dialog = desk.page.locator(".jp-Dialog button")  # JupyterLab says that the kernel restarts
    if dialog.count():
        dialog.last.click()
    desk.run_all()
    desk.send("count")
    desk.wait_answer(1)
    assert desk.answer() == COUNT[:300]
    desk.shot("killed_2_run_again")


# --- pictures ------------------------------------------------------------------------------------


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_drawn_by_keyboard_or_mouse_or_uploaded(lab, desk, tmp_path):
    """With random weights: what it says of a picture is another matter."""
    folder = make_llava(tmp_path / "llava")
    source = (
        f"from litellama import LLM\nfrom litellama.course.chat import Chat\n"
        f"llm = LLM({str(folder)!r}, dtype='float32')\nchat = Chat(llm, max_tokens=20)\nchat"
    )
    desk.open(lab.notebook("pictures", source))
    desk.run_all()
    chat = desk.chat()
    (tmp_path / "broken.png").write_bytes(png("red")[:-40])
    chat.get_by_label("A picture", exact=True).set_input_files(tmp_path / "broken.png")
    desk.page.wait_for_function("() => document.querySelector('.llc-alert').textContent")
    assert "picture is damaged" in desk.said()
    desk.shot("pictures_1_broken")
    (tmp_path / "blue.png").write_bytes(png("blue"))
    chat.get_by_label("A picture", exact=True).set_input_files(tmp_path / "blue.png")
    chat.get_by_role("button", name="Remove the picture").click()
    chat.get_by_role("button", name="Draw").focus()
    desk.page.keyboard.press("Enter")
    add_red_circle(desk)
    paper = chat.locator("canvas").bounding_box()
    desk.page.mouse.move(paper["x"] + 20, paper["y"] + 30)
    desk.page.mouse.down()
    desk.page.mouse.move(paper["x"] + 200, paper["y"] + 40, steps=5)
    desk.page.mouse.up()
    desk.shot("pictures_2_drawn")
    chat.get_by_role("button", name="Use this drawing").click()
    chat.get_by_role("button", name="Remove the picture").wait_for()
    desk.send("hello")
    desk.wait_answer(1)
    assert chat.locator(".llc-you img").count() == 1
    assert chat.locator(".llc-shown img").count() == 0
    size = "img => [img.naturalWidth, img.naturalHeight]"
    assert chat.locator(".llc-you img").evaluate(size) == [288, 288]
    desk.shot("pictures_3_asked")
    assert desk.errors == []


def add_red_circle(desk: Desk) -> None:
    """A large red circle in the middle: what the controls start from, by keyboard alone."""
    focused = "() => document.activeElement.tagName"
    assert desk.page.evaluate(focused) == "SELECT"
    for _ in range(4):
        desk.page.keyboard.press("Tab")
    desk.page.keyboard.press("Enter")


TRAINED = any((ROOT / "litellama" / "shapes").glob("*.safetensors"))


@pytest.mark.skipif(not TRAINED, reason="shapes-llava's weights are not in this tree")
def test_a_drawn_red_circle_is_recognised(lab, desk):
    """In both sizes, and not only in the middle."""
    source = (
        "from litellama.course.chat import Chat\n"
        "chat = Chat('shapes-llava', temperature=0, max_tokens=40)\nchat"
    )
    desk.open(lab.notebook("circle", source))
    desk.run_all()
    chat = desk.chat()
    for count, (size, place) in enumerate(
        (("large", "middle"), ("small", "middle"), ("large", "bottom right"), ("small", "top left"))
    ):
        chat.get_by_role("button", name="Draw", exact=True).click(timeout=180_000)
        if count:
            chat.get_by_role("button", name="Erase").click()
            chat.get_by_label("Size").select_option(size)
            chat.get_by_label("Place").select_option(place)
            chat.get_by_role("button", name="Add the shape").click()
        else:
            add_red_circle(desk)
        chat.get_by_role("button", name="Use this drawing").click()
        chat.get_by_role("button", name="Remove the picture").wait_for()
        desk.send("What is in the picture?")
        desk.wait_answer(1)
        desk.shot(f"circle_{count + 1}_{size}_{place.replace(' ', '_')}")
        assert "red circle" in desk.answer(), (size, place)
        chat.get_by_role("button", name="Clear").click()
        desk.wait_answer(0)


def test_a_model_that_cannot_be_loaded_is_said(lab, desk, folder):
    desk.open(lab.notebook("models", *parrot_cells(folder, "hello", 0.01)))
    desk.run_all()
    chat = desk.chat()
    chat.get_by_text("Settings", exact=True).click()
    chat.get_by_label(re.compile("Model")).fill("/no/such/model")
    chat.get_by_role("button", name="Load the model").click()
    desk.page.wait_for_function(
        "() => document.querySelector('.llc-alert').textContent.includes('could not be loaded')"
    )
    desk.shot("models_1_refused")
    desk.send("hello")
    desk.wait_answer(1)
    chat.get_by_label(re.compile("Model")).fill(str(folder))
    chat.get_by_role("button", name="Load the model").click()
    desk.page.wait_for_function("() => !document.querySelector('.llc-alert').textContent")
    assert desk.errors == []


# --- elsewhere -----------------------------------------------------------------------------------


# What Notebook 7 logs with an empty notebook, and Voilà for an extension of JupyterLab that does
# not fit into its page.
THEIRS = re.compile(r"reading 'schema'|module-federation\.io")


@pytest.mark.parametrize("server", ["voila", "notebook"])
def test_the_page_by_voila_and_in_notebook_7(desk, tmp_path, smollm2, server):
    """As little remote, and as few errors, as on a page without a chat."""
    if not importlib.util.find_spec(server):
        pytest.skip(f"{server} is not installed: the chat was not tried there")
    port = free_port()
    command = [sys.executable, "-m", server, "--no-browser", f"--port={port}"]
    if server == "voila":
        command[2] = "litellama.course.chat"
        command += ["--Voila.ip=127.0.0.1"]
        url = check = f"http://127.0.0.1:{port}"
    else:
        shutil.copy(HERE / "page.ipynb", tmp_path)
        command += ["--allow-root", "--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.root_dir={tmp_path}"]
        url, check = f"http://127.0.0.1:{port}/notebooks/page.ipynb", f"http://127.0.0.1:{port}/api"
    process = serve(command, check, tmp_path, tmp_path / "server.log")
    try:
        desk.page.goto(url, wait_until="domcontentloaded")
        if server == "notebook":
            desk.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
            desk.page.wait_for_timeout(1000)
            desk.page.locator(".jp-Cell .cm-content").first.click()
            desk.page.keyboard.press("Shift+Enter")
        desk.chat().locator(".llc-title", has_text="context").wait_for(timeout=180_000)
        desk.send("Name a fruit.")
        desk.wait_answer(1)
        desk.shot(f"elsewhere_{server}")
        assert desk.answer()
        assert [error for error in desk.errors if not THEIRS.search(error)] == []
        local = (f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}/", "data:", "blob:")
        assert [asked for asked in desk.requests if not asked.startswith(local)] == []
    finally:
        process.terminate()
        process.wait(20)


# --- for everybody -------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_axe_finds_nothing_serious(lab, desk, folder, axe, theme):
    """With everything open: settings, tokens, candidates, a message that objects."""
    text = "# A title\n\n1. **one** `two` [link](https://example.org)\n\n```\ncode\n```\n\n|a|b|\n|-|-|\n|1|2|"
    desk.open(lab.notebook("axe", *parrot_cells(folder, text, 0.005)))
    desk.command("apputils:change-theme", theme=theme)
    desk.run_all()
    chat = desk.chat()
    for count in (1, 2):
        desk.send("hello")
        desk.wait_answer(count)
    chat.locator("summary", has_text="tokens").last.click()
    chat.locator(".llc-token").last.click()
    chat.locator(".llc-candidates table").wait_for()
    chat.get_by_text("Settings", exact=True).click()
    desk.send(" ")
    desk.page.wait_for_function("() => document.querySelector('.llc-alert').textContent")
    desk.shot(f"axe_{theme.split()[-1].lower()}")
    desk.page.evaluate(axe)
    found = desk.page.evaluate("() => axe.run('.llc')")
    serious = [
        (v["id"], v["impact"], [node["html"][:120] for node in v["nodes"]][:4])
        for v in found["violations"]
    ]
    assert serious == []
    assert len(found["passes"]) > 15
    assert desk.errors == []


def test_everything_is_reached_by_the_tab_key(lab, desk, folder):
    desk.open(lab.notebook("tab", *parrot_cells(folder, "hello there", 0.005)))
    desk.run_all()
    desk.send("hello")
    desk.wait_answer(1)
    desk.chat().locator("summary", has_text="tokens").click()
    desk.chat().get_by_text("Settings", exact=True).click()
    desk.chat().locator(".llc-log").focus()
    name = "e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent"
    reached = []
    for _ in range(30):
        reached.append(desk.page.evaluate(f"() => ({name})(document.activeElement)"))
        desk.page.keyboard.press("Tab")
        if not desk.page.evaluate("() => !!document.activeElement.closest('.llc')"):
            break
    for wanted in (
        "Conversation", "Your message", "Send", "Stop", "Regenerate", "Edit last", "Clear", "Save",
        "Load", "Settings", "Load the model", "Temperature", "Top-p", "Top-k", "Min-p",
        "Most tokens", "Seed",
    ):  # fmt: skip
        assert wanted in reached
    assert any(text.startswith("token 1") for text in reached)
