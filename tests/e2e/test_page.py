"""The page in a real Chromium: ask, watch, stop, regenerate, reload, export, keyboard, phone
width."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from abruzzi.server.app import make_app
from abruzzi.server.page.routes import Page, PageSettings
from abruzzi.tools.calculator import Calculator
from tests.unit.server.scripted_engine import ScriptedLLM, call, serving

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
PRODUCT = call("calculator", '{"expression": "6 * 7"}')
SCRIPT = {
    "What is 6 * 7?": (
        f"<think>First the product.</think>[calls]{PRODUCT}[/calls][end]",
        "<think>There it is.</think>It is **42**. <img src=x onerror=boom()> [bad](javascript:boom()) "
        "[good](https://example.org/)[end]",
    ),
    "Go on": ("<think>On and on.</think>" + "word " * 1500 + "[end]",),
    "Ponder": ("<think>" + "hm " * 1500 + "</think>Never.[end]",),
}


class Pace:
    """Seconds per token; the test turns it up where it wants to catch a stream under way."""

    seconds = 0.0

    def __call__(self) -> int:
        time.sleep(self.seconds)
        return 1


@contextmanager
def site(pace: Pace) -> Iterator[tuple[str, ScriptedLLM]]:
    """The page on a loopback port, with an engine that follows SCRIPT by the last question."""

    def script(prompt: list[int], _: int) -> str:
        text = llm.tokenizer.decode(prompt)
        asked = max(SCRIPT, key=text.rfind)
        after = text[text.rfind(asked) :]
        return SCRIPT[asked][min(after.count("## Return of"), len(SCRIPT[asked]) - 1)]

    llm = ScriptedLLM(script, max_context=16_384, per_step=pace)
    with serving(llm) as served, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        page = Page(served.service, (Calculator(),), PageSettings(("What is 6 * 7?",), "A scripted model."))
        app = make_app(served.service, routes=page.routes(), open_paths=page.open_paths())
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/", llm
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; hint: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def pace() -> Pace:
    return Pace()


@pytest.fixture
def opened(chromium: Any, pace: Pace) -> Iterator[tuple[Any, ScriptedLLM]]:
    """A fresh page; anything on the console or any error of a script fails the test."""
    with site(pace) as (url, llm):
        context = chromium.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
        tab = context.new_page()
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: None if request.url.startswith(url) else said.append(request.url))
        tab.goto(url)
        wait(tab, "document.querySelector('#model').textContent")
        yield tab, llm
        context.close()
    outside = [line for line in said if not line.startswith(("data:", "blob:"))]
    assert outside == []


def ask(tab: Any, text: str) -> None:
    tab.fill("#prompt", text)
    tab.keyboard.press("Enter")


def wait(tab: Any, condition: str, seconds: float = 30) -> None:
    """Until the JavaScript is true. The page's policy forbids the driver's own way, which needs
    eval."""
    deadline = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, f"never true: {condition}"
        tab.wait_for_timeout(20)


def ended(tab: Any, turns: int = 1) -> None:
    wait(tab, f"document.querySelectorAll('.turn .foot').length === {turns}")


def test_ask_watch_read_reload_export(opened: tuple[Any, ScriptedLLM], tmp_path: Path) -> None:
    tab, llm = opened
    tab.click("text=What is 6 * 7?")  # a suggestion on the empty page
    ended(tab)
    assert tab.locator(".turn > *").evaluate_all("nodes => nodes.map(n => n.className.split(' ')[0])") == [
        "thought", "call", "thought", "answer", "foot",
    ]  # fmt: skip
    assert tab.locator(".thought summary").first.inner_text().startswith("Thought for")
    card = tab.locator(".call.ok")
    assert card.locator(".name").inner_text() == "calculator"
    assert (
        card.locator(".arguments").inner_text() == "expression: 6 * 7" and card.locator(".result").inner_text() == "42"
    )
    answer = tab.locator(".answer")
    assert answer.locator("strong").inner_text() == "42"
    assert answer.locator("img, script").count() == 0 and "<img src=x" in answer.inner_text()
    assert answer.locator("a").evaluate_all("links => links.map(a => a.href)") == ["https://example.org/"]
    spent = sum(len(s.tokens) for s in llm.submitted)
    assert f"{spent} tokens" in tab.locator(".foot").inner_text() and "tok/s" in tab.locator(".foot").inner_text()
    assert tab.locator("#context-text").inner_text() == f"{len(llm.submitted[-1].ids)} / 16384"

    before = tab.inner_text("#transcript")
    tab.reload()
    ended(tab)
    assert tab.inner_text("#transcript") == before
    with tab.expect_download() as markdown:
        tab.click("text=Export Markdown")
    text = Path(markdown.value.path()).read_text()
    assert "It is **42**" in text and "> First the product." in text and "6 * 7" in text
    with tab.expect_download() as exported:
        tab.click("text=Export JSON")
    kept = json.loads(Path(exported.value.path()).read_text())
    assert [m["role"] for m in kept["turns"][0]["messages"]] == ["assistant", "tool", "assistant"]

    tab.fill("#prompt", "What is 6 * 7?")
    tab.click("text=Raw prompt")
    tab.wait_for_selector("#raw-dialog[open]")
    shown = tab.locator("#raw-tokens > span").count()
    tab.keyboard.press("Escape")
    tab.focus("#prompt")
    tab.keyboard.press("Enter")
    ended(tab, 2)
    assert shown == len(llm.prompts[2])  # what was shown is what the engine got

    tab.click("text=Regenerate")
    ended(tab, 2)
    assert llm.prompts[-2] == llm.prompts[2] and tab.locator(".user").count() == 2


def test_stop_and_answer_now(opened: tuple[Any, ScriptedLLM], pace: Pace) -> None:
    tab, llm = opened
    pace.seconds = 0.01
    ask(tab, "Go on")
    wait(tab, "document.querySelector('.answer')?.textContent.length > 40")
    tab.keyboard.press("Escape")
    ended(tab)
    assert not llm.live and "ended: stopped" in tab.locator(".foot").inner_text()
    kept = tab.locator(".answer").inner_text()
    ask(tab, "Ponder")
    wait(tab, "document.querySelectorAll('.thought.live').length === 1")
    tab.click("#answer-now")
    pace.seconds = 0.0
    ended(tab, 2)
    # The thought was closed early: what the script goes on to say is the answer now.
    assert tab.locator(".answer").count() == 2 and "hm hm" in tab.locator(".answer").last.inner_text()
    # What was stopped is part of the history that the model sees.
    assert kept.split()[0] * 3 in llm.tokenizer.decode(llm.prompts[-1]).replace(" ", "")


def test_keyboard_theme_and_phone(opened: tuple[Any, ScriptedLLM]) -> None:
    tab, _ = opened
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("?")
    tab.wait_for_selector("#help-dialog[open]")
    tab.keyboard.press("Escape")
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "prompt" and tab.input_value("#prompt") == ""
    tab.keyboard.type("What is 6 * 7?")
    tab.keyboard.press("Shift+Enter")
    assert tab.input_value("#prompt").endswith("\n")
    tab.keyboard.press("Enter")
    ended(tab)
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not tab.locator("#drawer").is_visible()
    tab.click("#menu")
    tab.wait_for_selector("#drawer.open")
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.click(".entry .delete")
    tab.wait_for_selector(".welcome")
    assert tab.evaluate("Object.keys(localStorage).filter(k => k.includes('conversation')).length") == 0
