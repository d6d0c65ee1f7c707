"""The judge pytest-playwright: the shared tests, and tests of its fixtures. A docstring is a test's name."""

import json

import pytest
from judge import SITE, Skip
from playwright.sync_api import expect
from shared import TESTS, Fixture, Test, run_sync


@pytest.mark.parametrize("shared", TESTS)
def test_shared(shared: Test, page) -> None:
    page.goto(shared.path)
    try:
        run_sync(shared.run(Fixture.sync(page)))
    except Skip as skip:
        pytest.skip(str(skip))


def test_page(page, context, browser_name, is_firefox) -> None:
    """page fixture: starts empty in a context of its own"""
    assert page.url == "about:blank"
    assert context.pages == [page]
    assert context.cookies() == []
    assert (browser_name, is_firefox) == ("firefox", True)


@pytest.mark.browser_context_args(locale="fr-CH", timezone_id="Asia/Tokyo")
def test_context_arguments(page) -> None:
    """browser_context_args: sets locale and timezone"""
    page.goto("/list/1")
    assert page.evaluate("navigator.language") == "fr-CH"
    assert page.evaluate("new Date(0).getHours()") == 9


def test_new_context(new_context) -> None:
    """new_context fixture: opens contexts with different viewports"""
    for width, height in [(400, 300), (800, 600)]:
        page = new_context(viewport={"width": width, "height": height}).new_page()
        page.goto(f"{SITE}/list/1")
        assert page.evaluate("[innerWidth, innerHeight]") == [width, height]


def test_request(context) -> None:
    """request: sends the cookies of the context"""
    context.add_cookies([{"name": "owner", "value": "context", "url": SITE}])
    response = context.request.post("/echo", data={"from": "request"})
    expect(response).to_be_ok()
    assert response.json()["headers"]["cookie"] == "owner=context"
    assert json.loads(response.json()["body"]) == {"from": "request"}


def test_screenshot(page, output_path, tmp_path) -> None:
    """screenshot: saves the whole page"""
    page.goto("/list/2")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").read_bytes()[1:4] == b"PNG"
