"""The tests that the judges in Python share.

A test is a generator function that yields each result of Playwright's API and gets it back: as it is with the sync API,
awaited with the async one. `run_sync` and `run_async` run it. A judge opens the test's path in a page of a context of
its own, and passes a `Fixture`. A test opens further pages in contexts that it creates, because a context that came with
a page (`browser.new_page`) accepts no other page.
"""

import asyncio
import functools
import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urljoin, urlsplit

from judge import SITE, Skip
from playwright import async_api, sync_api
from playwright._impl._browser import Browser
from playwright._impl._browser_context import BrowserContext

SECURE_SITE = SITE.replace("http:", "https:", 1)
MIB = 1 << 20

Steps = Generator[Any, Any, Any]


def retried(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Calls a method of Playwright again while another window of the browser opens. Firefox 153 rejects
    browsingContext.create in this state, because the other window has no tabs yet."""

    @functools.wraps(method)
    async def call(*arguments: Any, **options: Any) -> Any:
        for _ in range(50):
            try:
                return await method(*arguments, **options)
            except async_api.Error as error:
                if "getTabBrowser(...) is undefined" not in error.message:
                    raise
            await asyncio.sleep(0.1)
        return await method(*arguments, **options)

    return call


BrowserContext.new_page = retried(BrowserContext.new_page)
# A context with a storage state opens a page.
Browser.new_context = retried(Browser.new_context)


@dataclass
class Fixture:
    page: Any
    browser: Any
    #: Waits for an event: `event(page, "popup", lambda: page.click("#open"))`.
    event: Callable[..., Any]
    expect: Any

    @classmethod
    def sync(cls, page: sync_api.Page) -> "Fixture":
        def event(target: Any, name: str, action: Callable[[], Any], timeout: int = 30_000) -> Any:
            with target.expect_event(name, timeout=timeout) as info:
                action()
            return info.value

        return cls(page, page.context.browser, event, sync_api.expect)

    @classmethod
    def asynchronous(cls, page: async_api.Page) -> "Fixture":
        async def event(target: Any, name: str, action: Callable[[], Any], timeout: int = 30_000) -> Any:
            async with target.expect_event(name, timeout=timeout) as info:
                await action()
            return await info.value

        return cls(page, page.context.browser, event, async_api.expect)


@dataclass
class Test:
    name: str
    path: str
    run: Callable[[Fixture], Steps]

    # pytest would otherwise collect the class.
    __test__ = False


TESTS: list[Test] = []


def test(name: str, path: str) -> Callable[[Callable[[Fixture], Steps]], None]:
    return lambda run: TESTS.append(Test(name, path, run))


def run_sync(steps: Steps) -> Any:
    result = None
    while True:
        try:
            result = steps.send(result)
        except StopIteration as stop:
            return stop.value


async def run_async(steps: Steps) -> Any:
    resume, argument = steps.send, None
    while True:
        try:
            step = resume(argument)
        except StopIteration as stop:
            return stop.value
        try:
            resume, argument = steps.send, await step if inspect.isawaitable(step) else step
        except Exception as error:
            resume, argument = steps.throw, error


def in_context(browser: Any, options: dict, path: str | None, body: Callable[[Any, Any], Steps]) -> Steps:
    """Opens `path` in a new context, runs `body` with the page and the context, and closes the context."""
    context = yield browser.new_context(**options)
    try:
        page = yield context.new_page()
        if path:
            yield page.goto(urljoin(SITE, path))
        return (yield from body(page, context))
    finally:
        yield context.close()


def download(fixture: Fixture, selector: str, timeout: int = 30_000) -> Steps:
    """The suggested name and the content of the file that a click downloads."""
    started = yield fixture.event(fixture.page, "download", lambda: fixture.page.click(selector), timeout)
    # `started.path()` is not available to a client that is connected to a remote browser.
    with TemporaryDirectory() as folder:
        path = Path(folder, "download")
        yield started.save_as(path)
        return started.suggested_filename, path.read_bytes()


def received_headers(page: Any) -> Steps:
    """The headers that the site receives when `page` opens it."""
    response = yield page.goto(f"{SITE}/echo")
    return (yield response.json())["headers"]


def digest(content: bytes) -> str:
    """The start of the hash that /upload shows."""
    return hashlib.sha256(content).hexdigest()[:16]


@test("iframes: lists the frames with their parents", "/iframes")
def _(fixture):
    page = fixture.page
    deep = page.frame_locator("[name=first]").frame_locator("[name=nested]").get_by_label("deep")
    yield fixture.expect(deep).to_be_visible()
    assert len(page.frames) == 5
    # Over WebDriver BiDi, Playwright may report a frame before it knows the frame's name, so `page.frame` may not find it.
    first = yield (yield page.wait_for_selector("[name=first]")).content_frame()
    nested = yield (yield first.wait_for_selector("[name=nested]")).content_frame()
    assert nested.parent_frame == first
    assert first.child_frames == [nested]


@test("iframes: receives messages of two frames", "/iframes")
def _(fixture):
    page = fixture.page
    messages = page.locator("#messages li")
    for _ in range(2):
        yield page.frame_locator("[name=first]").get_by_role("button").click()
    yield fixture.expect(messages).to_have_text(["first counted 1", "first counted 2"])
    yield page.frame_locator("[name=second]").get_by_role("button").click()
    yield fixture.expect(messages.last).to_have_text("second counted 1")


@test("iframes: types in a nested frame", "/iframes")
def _(fixture):
    nested = fixture.page.frame_locator("[name=first]").frame_locator("[name=nested]")
    yield nested.get_by_label("deep").press_sequentially("typed")
    yield fixture.expect(nested.locator("output")).to_have_text("TYPED")


@test("downloads: saves a file", "/downloads")
def _(fixture):
    name, content = yield from download(fixture, "#report")
    assert (name, content) == ("report.csv", b"name,count\nfirst,1\nsecond,2\n")


@test("downloads: saves 1 MiB without a changed byte", "/downloads")
def _(fixture):
    _, content = yield from download(fixture, "#large")
    assert content == bytes(index % 251 for index in range(MIB))


@test("downloads: saves a blob", "/downloads")
def _(fixture):
    try:
        _, content = yield from download(fixture, "#blob", timeout=5_000)
    except (sync_api.TimeoutError, async_api.TimeoutError):
        raise Skip("Firefox announces the download of a blob without an id, and Playwright ignores it") from None
    assert content == b"made in the page"


@test("popup: reports the popup and its opener", "/popup")
def _(fixture):
    page = fixture.page
    popup = yield fixture.event(page, "popup", lambda: page.click("#open"))
    yield fixture.expect(popup).to_have_title("Popup child")
    assert (yield popup.opener()) == page
    yield popup.click("#answer")
    yield fixture.expect(page.locator("#messages li")).to_have_text(["answer of the popup"])


@test("popup: sees a popup close itself", "/popup")
def _(fixture):
    page = fixture.page
    popup = yield fixture.event(page, "popup", lambda: page.click("#open"))
    yield fixture.event(popup, "close", lambda: page.click("#close"))
    assert popup.is_closed()
    assert len(page.context.pages) == 1


@test("popup: a link without an opener", "/popup")
def _(fixture):
    page = fixture.page
    blank = yield fixture.event(page.context, "page", lambda: page.click("#blank"))
    yield fixture.expect(blank.locator("output")).to_have_text("has no opener")
    assert len(page.context.pages) == 2


@test("basic auth: 401 without credentials", "/")
def _(fixture):
    def body(page, _):
        response = yield page.goto(f"{SITE}/basic")
        assert response.status == 401

    yield from in_context(fixture.browser, {}, None, body)


@test("basic auth: signs in", "/")
def _(fixture):
    def body(page, _):
        for _ in range(2):
            yield page.goto(f"{SITE}/basic")
            yield fixture.expect(page.locator("p")).to_have_text("signed in as ada")

    yield from in_context(fixture.browser, {"http_credentials": {"username": "ada", "password": "ada-secret"}}, None, body)


@test("https: rejects the certificate of the site", "/")
def _(fixture):
    def body(page, _):
        try:
            yield page.goto(SECURE_SITE)
        except (sync_api.Error, async_api.Error):
            return
        raise AssertionError("the page was loaded")

    yield from in_context(fixture.browser, {}, None, body)


@test("https: ignores certificate errors", "/")
def _(fixture):
    def body(page, _):
        yield fixture.expect(page).to_have_title("Fixtures")
        assert (yield page.evaluate("isSecureContext")) is True

    yield from in_context(fixture.browser, {"ignore_https_errors": True}, SECURE_SITE, body)


def with_service_worker(fixture: Fixture, body: Callable[[Any, Any], Steps]) -> Steps:
    """Opens the page of the service worker and waits until it controls the page."""

    def in_page(page, context):
        yield page.wait_for_function("document.querySelector('#state').value !== 'not registered'")
        state = yield page.locator("#state").text_content()
        if state != "controlled":
            raise Skip(f"no service worker with a self-signed certificate: {state}")
        yield from body(page, context)

    yield from in_context(fixture.browser, {"ignore_https_errors": True}, f"{SECURE_SITE}/worker/", in_page)


@test("service worker: answers requests of its page", "/")
def _(fixture):
    def body(page, _):
        yield page.get_by_role("button").click()
        yield fixture.expect(page.locator("#answer")).to_have_text("from the service worker")

    yield from with_service_worker(fixture, body)


@test("service worker: controls a second page of the context", "/")
def _(fixture):
    def body(_, context):
        second = yield context.new_page()
        yield second.goto(f"{SECURE_SITE}/worker/")
        assert (yield second.evaluate("navigator.serviceWorker.controller !== null")) is True

    yield from with_service_worker(fixture, body)


@test("WebSocket: exchanges messages", "/socket")
def _(fixture):
    page = fixture.page
    yield fixture.expect(page.locator("output")).to_have_text("open")
    yield page.get_by_label("text").fill("from the page")
    yield page.get_by_role("button").click()
    yield fixture.expect(page.locator("#messages li")).to_have_text(["welcome", "echo from the page"])


@test("WebSocket: receives 200 messages in order", "/socket")
def _(fixture):
    page = fixture.page
    yield fixture.expect(page.locator("output")).to_have_text("open")
    yield page.get_by_label("text").fill("burst 200")
    yield page.get_by_role("button").click()
    yield fixture.expect(page.locator("#messages li")).to_have_count(201)
    received = yield page.locator("#messages li").all_text_contents()
    assert received[1:] == [f"message {index}" for index in range(1, 201)]


@test("WebSocket: receives the code of a Close frame", "/socket")
def _(fixture):
    page = fixture.page
    yield fixture.expect(page.locator("output")).to_have_text("open")
    yield page.get_by_label("text").fill("close")
    yield page.get_by_role("button").click()
    yield fixture.expect(page.locator("output")).to_have_text("closed 4001 requested")


@test("WebSocket: a route answers instead of the site", "/")
def _(fixture):
    def body(page, _):
        def answer(socket):
            socket.on_message(lambda text: socket.send(f"routed {text}"))

        yield page.route_web_socket(re.compile("/socket/echo$"), answer)
        yield page.goto(f"{SITE}/socket")
        yield page.get_by_label("text").fill("hello")
        yield page.get_by_role("button").click()
        yield fixture.expect(page.locator("#messages li")).to_have_text(["routed hello"])

    yield from in_context(fixture.browser, {}, None, body)


@test("shadow DOM: locators find elements in open roots", "/shadow")
def _(fixture):
    page = fixture.page
    yield fixture.expect(page.get_by_text("slotted title")).to_be_visible()
    yield fixture.expect(page.locator("x-card output")).to_have_count(2)
    yield fixture.expect(page.get_by_text("sealed text")).to_have_count(0)


@test("shadow DOM: clicks in nested roots", "/shadow")
def _(fixture):
    page = fixture.page
    for _ in range(3):
        yield page.locator("x-counter").nth(1).get_by_role("button").click()
    yield fixture.expect(page.locator("x-counter output")).to_have_text(["0", "3"])


@test("upload: sends two files and a field", "/upload")
def _(fixture):
    page = fixture.page
    names = ["first", "second"]
    files = [{"name": f"{name}.txt", "mimeType": "text/plain", "buffer": name.encode()} for name in names]
    yield page.set_input_files("[type=file]", files)
    yield page.get_by_label("note").fill("a note")
    yield page.get_by_role("button", name="send").click()
    lines = [f"{name}.txt: {len(name)} bytes, {digest(name.encode())}" for name in names]
    yield fixture.expect(page.locator("li")).to_have_text([*lines, "note = a note"])


@test("upload: answers a file chooser with 1 MiB", "/upload")
def _(fixture):
    page = fixture.page
    content = bytes(index * 7 % 256 for index in range(MIB))
    chooser = yield fixture.event(page, "filechooser", lambda: page.click("[type=file]"))
    assert chooser.is_multiple()
    yield chooser.set_files({"name": "large.bin", "mimeType": "application/octet-stream", "buffer": content})
    yield page.get_by_role("button", name="send").click()
    yield fixture.expect(page.locator("li").first).to_have_text(f"large.bin: {MIB} bytes, {digest(content)}")


@test("redirect: follows three redirects", "/redirect")
def _(fixture):
    response = yield fixture.page.goto(f"{SITE}/redirect/3")
    assert fixture.page.url == f"{SITE}/redirect/0"
    chain, request = [], response.request
    while request:
        chain.append(urlsplit(request.url).path)
        request = request.redirected_from
    assert chain == ["/redirect/0", "/redirect/1", "/redirect/2", "/redirect/3"]


@test("redirect: follows a meta refresh, a script and a form", "/redirect")
def _(fixture):
    page = fixture.page
    for way in ["meta", "script", "post"]:
        yield page.goto(f"{SITE}/redirect")
        yield page.get_by_text(way, exact=True).click()
        yield fixture.expect(page).to_have_url(f"{SITE}/redirect/0")
        yield fixture.expect(page.locator("p")).to_have_text("by GET")


@test("large DOM: reads 5000 rows", "/large")
def _(fixture):
    page = fixture.page
    yield fixture.expect(page.locator("tr")).to_have_count(5000)
    cells = yield page.locator("td:last-child").all_text_contents()
    assert [int(cell) for cell in cells] == [index % 7 for index in range(5000)]


@test("large DOM: appends rows and scrolls to the last", "/large")
def _(fixture):
    page = fixture.page
    yield page.get_by_role("button").click()
    yield page.locator("#row-5999").scroll_into_view_if_needed()
    yield fixture.expect(page.locator("#row-5999")).to_be_in_viewport()


@test("large DOM: takes a screenshot of a row", "/large")
def _(fixture):
    screenshot = yield fixture.page.locator("#row-2500").screenshot()
    assert screenshot[1:4] == b"PNG"


@test("slow response: waits for it", "/slow")
def _(fixture):
    page = fixture.page
    response = yield fixture.event(page, "response", lambda: page.get_by_role("button").click())
    assert (response.status, urlsplit(response.url).path) == (200, "/slow/400")
    yield fixture.expect(page.locator("output")).to_contain_text("After 400 ms")


@test("slow response: receives it in parts", "/slow")
def _(fixture):
    page = fixture.page
    yield page.goto(f"{SITE}/slow/parts", wait_until="commit")
    yield fixture.expect(page.locator("p")).to_have_text(["part 1", "part 2", "part 3"])


@test("slow response: gives up after a timeout", "/slow")
def _(fixture):
    def body(page, _):
        try:
            yield page.goto(f"{SITE}/slow/never", timeout=500)
        except (sync_api.TimeoutError, async_api.TimeoutError):
            yield page.goto(f"{SITE}/slow/1")
            yield fixture.expect(page).to_have_title("After 1 ms")
            return
        raise AssertionError("the page was loaded")

    yield from in_context(fixture.browser, {}, None, body)


@test("dialog: accepts an alert", "/dialog")
def _(fixture):
    shown = []

    def accept(dialog):
        shown.append((dialog.type, dialog.message))
        return dialog.accept()

    fixture.page.once("dialog", accept)
    yield fixture.page.click("#alert")
    yield fixture.expect(fixture.page.locator("output")).to_have_text("alerted")
    assert shown == [("alert", "an alert")]


@test("dialog: accepts and dismisses a question", "/dialog")
def _(fixture):
    page = fixture.page
    page.once("dialog", lambda dialog: dialog.accept())
    yield page.click("#confirm")
    yield fixture.expect(page.locator("output")).to_have_text("confirmed: true")
    # Playwright dismisses a dialog that no listener handles.
    yield page.click("#confirm")
    yield fixture.expect(page.locator("output")).to_have_text("confirmed: false")


@test("dialog: answers a prompt", "/dialog")
def _(fixture):
    page = fixture.page
    page.once("dialog", lambda dialog: dialog.accept(f"{dialog.default_value}, changed"))
    yield page.click("#prompt")
    yield fixture.expect(page.locator("output")).to_have_text("prompted: a default, changed")


@test("contexts: do not share cookies", "/")
def _(fixture):
    def body(first, _):
        def inner(second, _):
            assert (yield from received_headers(first))["cookie"] == "owner=first"
            assert (yield from received_headers(second))["cookie"] == "owner=second"

        yield from in_context(fixture.browser, {}, "/cookie?owner=second", inner)

    yield from in_context(fixture.browser, {}, "/cookie?owner=first", body)


@test("contexts: restore a storage state", "/")
def _(fixture):
    def save(_, context):
        return (yield context.storage_state())

    def restore(page, _):
        assert (yield page.evaluate("localStorage.getItem('key')")) == "kept"
        assert (yield from received_headers(page))["cookie"] == "owner=saved"

    state = yield from in_context(fixture.browser, {}, "/cookie?owner=saved", save)
    state["origins"] = [{"origin": SITE, "localStorage": [{"name": "key", "value": "kept"}]}]
    yield from in_context(fixture.browser, {"storage_state": state}, "/", restore)


@test("contexts: have their own headers, locale and user agent", "/")
def _(fixture):
    def body(page, _):
        received = yield from received_headers(page)
        assert received["user-agent"] == "judge/1.0"
        assert received["x-judge"] == "present"
        assert (yield page.evaluate("navigator.language")) == "de-CH"

    options = {"locale": "de-CH", "user_agent": "judge/1.0", "extra_http_headers": {"X-Judge": "present"}}
    yield from in_context(fixture.browser, options, None, body)


@test("contexts: a route answers and aborts requests", "/")
def _(fixture):
    def body(page, context):
        yield context.route("**/slow/*", lambda route: route.fulfill(body="answered by the route"))
        yield context.route("**/item/*", lambda route: route.abort())
        yield page.goto(f"{SITE}/slow")
        yield page.get_by_role("button").click()
        yield fixture.expect(page.locator("output")).to_have_text("answered by the route")
        try:
            yield page.goto(f"{SITE}/item/1")
        except (sync_api.Error, async_api.Error):
            return
        raise AssertionError("the page was loaded")

    yield from in_context(fixture.browser, {}, None, body)


@test("contexts: four pages are open at the same time", "/")
def _(fixture):
    def body(_, context):
        pages = []
        for item in range(1, 5):
            page = yield context.new_page()
            yield page.goto(f"{SITE}/item/{item}")
            pages.append(page)
        for item, page in enumerate(pages, 1):
            yield fixture.expect(page.locator("#price")).to_have_text(str(item * 3))
        assert len(context.pages) == 5

    yield from in_context(fixture.browser, {}, None, body)
