"""The playground in a real browser on a real server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from servers import USE, Running, running

from seektune.models.load import load_model
from seektune.serving.playground import playground
from seektune.serving.protocol import ChatBody

EVIL = '<img src=x onerror="document.title=1">&amp;<script>document.title=2</script>'
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def at(signed: Mapping[str, Path]) -> Iterator[Running]:
    """tiny/llama with the signing adapters, no key needed; A can be loaded anew."""
    with running(load_model("tiny/llama"), adapters=signed) as server:
        yield server


@pytest.fixture
def visit(browser: Any, at: Running) -> Iterator[Open]:
    """Opens the page; afterwards nothing went elsewhere and the console is empty but for `expected`."""
    contexts, asked, said, expected = [], [], [], []

    def page(url: str = at.url, expect: tuple[str, ...] = (), **options: Any) -> Any:
        context = browser.new_context(**({"locale": "en-US"} | options))
        context.set_default_timeout(60_000)
        contexts.append(context)
        expected.extend(expect)
        opened = context.new_page()
        opened.on("request", lambda request: asked.append(request.url))
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("dialog", lambda dialog: said.append(dialog.message))
        opened.goto(url)
        return opened

    yield page
    for context in contexts:
        context.close()
    assert not [text for text in said if not any(known in text for known in expected)]
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:"))]


def ask(page: Any, question: str, **settings: object) -> list[str]:
    """Ask, and wait for the answer of every column."""
    page.wait_for_selector("option", state="attached")
    for name, value in settings.items():
        page.fill(f"[name={name}]", str(value))
    before = page.locator("article").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    columns = page.locator(".column").count()
    page.locator("article[aria-busy=false]").nth(before + columns - 1).wait_for()
    page.wait_for_selector("#send")
    return [column.locator(".answer").last.text_content() for column in page.locator(".column").all()]


def streamed(page: Any, *events: Mapping[str, Any]) -> None:
    """Let the page's next questions be answered with `events`, and no end of the stream but theirs."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    page.route(
        "**/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )


def chunk(text: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"model": EVIL, "choices": [choice], "usage": None} | more


def test_the_page_stands_alone_and_its_policy_lets_nothing_else_run():
    page = playground()
    text, policy = bytes(page.body).decode(), page.headers["content-security-policy"]
    assert not re.search(r"\b(src|href|action)=(?!\"data:)|https?://(?!www\.w3\.org/2000/svg)|@import", text)
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|\beval\b|style=|\son[a-z]+=", text)
    for element in ("style", "script"):
        [content] = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; connect-src 'self';")
    assert "unsafe" not in policy
    assert "{{" not in text


def test_settings_are_fields_of_the_api_and_show_its_defaults():
    text = bytes(playground().body).decode()
    fields = dict(re.findall(r'name="(\w+)" type="number" step="any"(?: placeholder="(\d+)")?', text))
    assert len(fields) == 9
    for name, shown in fields.items():
        default = ChatBody.model_fields[name].default
        assert default == (float(shown) if shown else None)


def test_an_answer_is_the_apis(visit: Open, at: Running):
    question = "Hello\n你好"
    want = at.openai().chat.completions.create(
        model="A", messages=[{"role": "user", "content": question}], max_tokens=30, temperature=0
    )
    page = visit()
    [got] = ask(page, question, temperature=0, max_tokens=30)
    assert got == want.choices[0].message.content == "A" * 30
    assert page.text_content(".asked") == question
    told = page.text_content(".told")
    assert re.fullmatch(
        rf"{want.model} · 30 tokens · \d+ tokens/s · first after \d+ ms · cut at max_tokens", told
    )
    assert page.input_value("#question") == ""


def test_the_picker_changes_who_answers_and_the_conversation_goes_on(visit: Open, at: Running):
    page = visit()
    assert ask(page, "one", temperature=0, max_tokens=5) == ["AAAAA"]
    page.select_option("select", "B")
    with page.expect_request("**/chat/completions") as sent:
        assert ask(page, "two", system="Be brief.", seed=7, stop="x\ny", top_k=3) == ["BBBBB"]
    body = sent.value.post_data_json
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "AAAAA"},
        {"role": "user", "content": "two"},
    ]  # fmt: skip
    chosen = {name: body[name] for name in body if name not in ("messages", "stream", "stream_options")}
    assert chosen == {
        "model": "B", "temperature": 0, "max_tokens": 5, "seed": 7, "stop": ["x", "y"], "top_k": 3
    }  # fmt: skip
    base = page.locator("option").first
    assert base.text_content() == "tiny/llama (base)"
    page.select_option("select", "tiny/llama")
    page.click("#again")  # in place of the last answer
    page.locator("article[aria-busy=false]").nth(1).wait_for()
    assert page.locator("article").count() == 2
    assert set(page.locator(".answer").last.text_content()) != {"B"}
    page.click("#fresh")
    assert page.locator("article").count() == 0


def test_columns_answer_the_same_question_at_once(visit: Open, at: Running):
    page = visit()
    ask(page, "before", temperature=0, max_tokens=3)
    page.click("#compare")
    assert page.locator(".column").nth(1).locator(".answer").text_content() == "AAA"
    assert page.locator("select").nth(1).input_value() == "tiny/llama"
    page.locator("select").nth(1).select_option("B")
    order: list[str] = []
    page.on("request", lambda r: r.method == "POST" and order.append("asked"))
    page.on("requestfinished", lambda r: r.method == "POST" and order.append("answered"))
    assert ask(page, "which?", max_tokens=50) == ["A" * 50, "B" * 50]
    assert order[:2] == ["asked", "asked"]
    page.locator(".remove").first.click()
    assert page.locator("select").input_value() == "B"


@pytest.mark.parametrize("how", ["Escape", "button", "column"])
def test_stopping_keeps_what_was_said_and_frees_the_slot(
    visit: Open, at: Running, how: str, monkeypatch: pytest.MonkeyPatch
):
    engine = at.service.backend.worker._engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.02), step())[1])  # as a large model would
    page = visit()
    page.wait_for_selector("option", state="attached")
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "3000")
    if how == "column":
        page.click("#compare")
    page.fill("#question", "long")
    before = at.service.backend.worker.stats.generated_tokens
    page.press("#question", "Enter")
    page.locator(".answer", has_text="AAAA").wait_for()
    assert page.locator("#send").is_hidden()
    if how == "Escape":
        page.keyboard.press("Escape")
    elif how == "button":
        page.click("#stop")
    else:
        page.locator(".remove").first.click()
        page.click("#stop")
    page.wait_for_selector("#send")
    ends = time.monotonic() + 10
    while at.service.backend.worker.stats.running and time.monotonic() < ends:
        time.sleep(0.02)
    stats = at.service.backend.worker.stats
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.generated_tokens - before < 3000
    if how != "column":
        assert re.search(r"stopped after \d+\.\d s$", page.text_content(".told"))
        assert set(page.text_content(".answer")) == {"A"}
        assert page.locator(".error").is_hidden()


def test_keys_of_the_keyboard(visit: Open, at: Running):
    page = visit()
    page.wait_for_selector("option", state="attached")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.press("Enter")
    assert page.locator("article").count() == 0  # nothing to send
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#question") == "one\ntwo"
    page.focus("select")
    page.keyboard.press("/")
    page.focus(".log")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "question"
    assert page.input_value("#question") == "one\ntwo"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "ni", "selectionStart": 2, "selectionEnd": 2})
    page.keyboard.press("Enter")  # takes the word
    keyboard.send("Input.insertText", {"text": "你"})
    page.evaluate("new Promise(requestAnimationFrame)")
    assert page.locator("article").count() == 0
    page.fill("[name=max_tokens]", "2")
    page.focus("#question")
    page.keyboard.press("Enter")
    page.locator("article[aria-busy=false]").wait_for()
    assert "你" in page.text_content(".asked")


def test_what_is_said_is_shown_and_never_obeyed(visit: Open):
    page = visit()
    streamed(page, chunk(EVIL), chunk("", error={"message": EVIL}))
    assert ask(page, EVIL) == [EVIL]
    assert [page.text_content(part) for part in (".asked", ".error")] == [EVIL, EVIL]
    assert page.text_content(".told").startswith(EVIL)
    page.unroute_all()
    listed = {"data": [{"id": EVIL, "root": f"{EVIL}@{EVIL}", "parent": None}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=listed))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.locator("option", has_text="onerror").wait_for(state="attached")
    page.select_option("select", EVIL)
    assert page.text_content(".version") == f"@{EVIL}"
    assert page.locator("img, script:not([type=module])").count() == 0
    assert page.title() == "seektune playground"


def test_the_policy_refuses_html_and_scripts_made_of_text(visit: Open):
    page = visit(expect=("TrustedHTML", "Content Security Policy"))
    refused = (
        """text => { try { document.body.innerHTML = text; return 'obeyed' } catch (e) { return e.name } }"""
    )
    assert page.evaluate(refused, EVIL) == "TypeError"
    assert page.evaluate("fetch('http://localhost:1/').catch(e => e.name)") == "TypeError"


def test_errors_are_the_servers_words_in_their_place(visit: Open, at: Running):
    page = visit(expect=("status of 400",))
    assert ask(page, "hot", temperature=-1) == [""]
    assert page.text_content(".error") == "temperature is -1.0: it must be 0 (greedy) or above, and finite"
    with page.expect_request("**/chat/completions") as sent:
        ask(page, "cold", temperature=0, max_tokens=2)
    assert [turn["content"] for turn in sent.value.post_data_json["messages"]] == ["cold"]
    page.fill("[name=seed]", "9007199254740993")  # JavaScript cannot say it
    page.fill("#question", "never sent")
    page.press("#question", "Enter")
    assert page.locator("article").count() == 2
    assert page.evaluate("document.activeElement.name") == "seed"


def test_a_stream_that_breaks_off_says_so(visit: Open):
    page = visit()
    streamed(page, chunk("half an ans"))
    assert ask(page, "x") == ["half an ans"]
    assert page.text_content(".error") == "The connection ended before the answer did."


def test_adapters_come_and_go_in_the_picker(visit: Open, signed: Mapping[str, Path], tmp_path: Path):
    def listed() -> list[str]:
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.evaluate("new Promise(done => setTimeout(done, 500))")
        return page.locator("option").all_text_contents()

    (tmp_path / "late").symlink_to(signed["B"])
    with running(load_model("tiny/llama"), adapter_root=signed["A"].parent) as at:
        page = visit(at.url, expect=("status of 404",))
        page.locator("option").wait_for(state="attached")
        assert listed() == ["tiny/llama (base)"]
        assert at.call("POST", "/v1/adapters", json={"name": "B"}).status_code == 200
        assert listed() == ["tiny/llama (base)", "B"]
        page.select_option("select", "B")
        assert re.fullmatch(r"@[0-9a-f]{16}", page.text_content(".version"))
        assert at.call("DELETE", "/v1/adapters/B").status_code == 200
        assert listed() == ["tiny/llama (base)", "B (not served any more)"]
        ask(page, "gone?")
        assert "'B' is not served" in page.text_content(".error")


def test_a_key_is_asked_for_kept_for_the_tab_and_in_no_address(visit: Open, server: Running):
    page = visit(server.url, expect=("status of 401",))
    page.wait_for_selector("#access")
    assert page.text_content("#refused").startswith("no API key was given")
    assert page.evaluate("document.activeElement.name") == "key"
    page.fill("[name=key]", "wrong-0123456789")
    page.keyboard.press("Enter")
    page.locator("#refused", has_text="an unknown API key").wait_for()
    page.fill("[name=key]", USE)
    with page.expect_request("**/v1/models") as sent:
        page.keyboard.press("Enter")
    assert sent.value.headers["authorization"] == f"Bearer {USE}"
    page.wait_for_selector("#access", state="hidden")
    assert ask(page, "x", temperature=0, max_tokens=3) == ["AAA"]
    page.reload()
    assert ask(page, "x", temperature=0, max_tokens=3) == ["AAA"]
    assert page.url == f"{server.url}/"
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    other = visit(server.url, expect=("status of 401",))  # another tab has not heard of it
    other.wait_for_selector("#access")


def test_the_page_speaks_chinese_where_the_browser_does(visit: Open):
    page = visit(locale="zh-CN")
    [answer] = ask(page, "你好", temperature=0, max_tokens=4)
    assert answer == "AAAA"
    said = page.locator("[data-say]").all_text_contents()
    assert all(re.search("[\u4e00-\u9fff]", text) for text in said), said
    assert re.search(
        r"4 个 token · \d+ token/秒 · 首个 token \d+ 毫秒 · 达到 max_tokens 上限$", page.text_content(".told")
    )
    assert page.get_attribute("html", "lang") == "zh-CN"
    page.click("#language")
    said = page.locator("[data-say]").all_text_contents()
    assert not any(re.search("[\u4e00-\u9fff]", text) for text in said), said
    assert page.text_content(".told").endswith("cut at max_tokens")
    assert page.get_attribute("html", "lang") == "en"


def test_the_page_fits_a_narrow_screen_and_the_dark(visit: Open):
    narrow = visit(viewport={"width": 360, "height": 640})
    narrow.click("summary")
    ask(narrow, "word " * 40 + "x" * 200, max_tokens=20)
    narrow.click("#compare")
    assert narrow.evaluate("document.documentElement.scrollWidth") == 360
    assert narrow.evaluate("document.documentElement.scrollHeight") == 640
    for control in ("#send", "#language", "#question"):
        box = narrow.locator(control).bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= 360
        assert 0 <= box["y"] < box["y"] + box["height"] <= 640
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = visit(color_scheme="dark")
    assert (narrow.evaluate(paper), dark.evaluate(paper)) == ("rgb(251, 250, 248)", "rgb(20, 23, 28)")


def test_every_control_has_a_name(visit: Open):
    page = visit()
    page.click("#compare")
    nameless = """() => [...document.querySelectorAll('button, input, select, textarea')]
        .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
        .map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.get_attribute(".log", "role") == "log"
