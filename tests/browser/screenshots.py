"""Takes the README's pictures of lesson 4 and of the chat.

``make screenshots`` gets what this needs and runs ``python -m tests.browser.screenshots``.  What a
picture shows is settled by seeds; its pixels differ with the fonts of the machine, so nothing
compares them.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.desk import MISSING, ROOT, Desk, Lab, chromium, jupyterlab

LARGEST = 250_000  # bytes of a picture: the README loads them all
QUESTIONS = ("What is the capital of France?", "Write one sentence about its river.")


def lesson(desk: Desk, lab: Lab) -> bytes:
    """Lesson 4 in JupyterLab, run from top to bottom, at the widget that turns pairs."""
    desk.page.set_viewport_size({"width": 1280, "height": 860})
    desk.open(lab.address("notebooks/04_rope.ipynb"))
    desk.run_all(300)
    desk.page.get_by_role("heading", name="See it move").scroll_into_view_if_needed()
    desk.page.locator(".jp-OutputArea .widget-slider").first.wait_for()
    desk.page.get_by_role("heading", name="See it move").evaluate("e => e.scrollIntoView()")
    desk.page.wait_for_timeout(1000)
    return desk.page.screenshot()


def chat(desk: Desk, lab: Lab) -> bytes:
    """The chat of lesson 18 after two messages, with a token of its last answer taken apart."""
    source = (
        "from litellama.course.chat import Chat\n\n"
        "Chat('smollm2', temperature=0.8, top_p=0.9, seed=3, max_tokens=64)"
    )
    desk.page.set_viewport_size({"width": 1250, "height": 1300})
    desk.open(lab.notebook("chat", source))
    desk.command("application:toggle-left-area")
    desk.run_all()
    desk.chat().locator(".llc-title", has_text="context").wait_for(timeout=180_000)
    for count, question in enumerate(QUESTIONS, start=1):
        desk.send(question)
        desk.wait_answer(count)
    last = desk.chat().locator(".llc-exchange").last
    last.locator("summary").click()
    last.locator(".llc-token").nth(1).click()
    last.locator(".llc-candidates table").wait_for()
    last.evaluate(
        "e => { const log = e.parentElement; log.scrollTop = e.offsetTop - log.offsetTop; }"
    )
    desk.page.mouse.move(0, 0)
    desk.page.wait_for_timeout(500)
    return desk.chat().screenshot()


PICTURES = {"lesson_04.png": lesson, "chat.png": chat}


def small(png: bytes) -> bytes:
    """The picture in 256 colours, which is all that a page has."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Take every picture; 1 if something that this needs is missing or a picture is too large."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "images")
    folder = parser.parse_args(arguments).folder
    if MISSING:
        print(f"no {' and '.join(MISSING)} here: see CONTRIBUTING.md, The chat", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as served, jupyterlab(Path(served)) as lab:
        for name in ("notebooks", "images"):
            shutil.copytree(ROOT / name, lab.folder / name)
        with chromium() as browser:
            for name, take in PICTURES.items():
                png = small(take(Desk(browser, folder), lab))
                if len(png) > LARGEST:
                    print(f"{name} has {len(png)} bytes, {LARGEST} are the most", file=sys.stderr)
                    return 1
                (folder / name).write_bytes(png)
                print(f"{folder / name}: {len(png)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
