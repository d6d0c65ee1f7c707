"""The judge scrapy-playwright: a spider whose requests open the pages of the shared tests, and requests with the
options of scrapy-playwright."""

import logging
from collections.abc import Callable
from urllib.parse import urljoin

import scrapy
from judge import ENDPOINT, HEADERS, SITE, report, report_run, sample
from scrapy.crawler import CrawlerProcess
from scrapy.http import Response
from scrapy_playwright.page import PageMethod
from shared import TESTS, Fixture, Test, run_async

JUDGE = "scrapy-playwright"

SETTINGS = {
    "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
    "DOWNLOAD_HANDLERS": {
        scheme: "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler" for scheme in ["http", "https"]
    },
    "PLAYWRIGHT_BROWSER_TYPE": "firefox",
    "PLAYWRIGHT_CONNECT_URL": ENDPOINT,
    "PLAYWRIGHT_CONNECT_KWARGS": {"headers": HEADERS},
    # The tests of requests share three contexts, and each shared test has one that it closes.
    "PLAYWRIGHT_MAX_CONTEXTS": 5,
    # Requests keep the headers of the browser.
    "PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None,
    "CONCURRENT_REQUESTS": 2,
    "RETRY_ENABLED": False,
    "ROBOTSTXT_OBEY": False,
    "TELNETCONSOLE_ENABLED": False,
    "HTTPERROR_ALLOW_ALL": True,
    "LOG_ENABLED": False,
}


def titles(response: Response) -> None:
    assert response.css("title::text").get() == "List 1"
    assert response.css(".item::text").getall() == ["1", "2", "3", "4"]


def script_has_run(response: Response) -> None:
    assert response.css("#price::text").get() == "15"


def page_methods(response: Response) -> None:
    assert response.css("output::text").get().startswith("<!doctype html>")
    screenshot = response.meta["playwright_page_methods"][-1].result
    assert screenshot[1:4] == b"PNG"


def not_found(response: Response) -> None:
    assert (response.status, response.css("title::text").get()) == (404, "Item 99")


def redirected(response: Response) -> None:
    assert (response.status, response.url) == (200, urljoin(SITE, "/redirect/0"))


def context_arguments(response: Response) -> None:
    # The body is the HTML of Firefox's viewer of JSON.
    assert "judge/2.0" in response.text


def signed_in(response: Response) -> None:
    assert response.css("p::text").get() == "signed in as grace"


def download(response: Response) -> None:
    assert response.body == b"name,count\nfirst,1\nsecond,2\n"
    assert response.meta["playwright_suggested_filename"] == "report.csv"


# The name of a test, its path, its check of the response, and scrapy-playwright's options of the request.
OWN: list[tuple[str, str, Callable[[Response], None], dict]] = [
    ("request: selects elements of the page", "/list/1", titles, {}),
    ("request: returns what the page's script made", "/item/5", script_has_run, {}),
    (
        "request: runs page methods",
        "/slow",
        page_methods,
        {
            "playwright_page_methods": [
                PageMethod("click", "button"),
                PageMethod("wait_for_selector", "text=After 400 ms"),
                PageMethod("screenshot"),
            ]
        },
    ),
    ("request: returns the status 404", "/item/99", not_found, {}),
    ("request: follows redirects", "/redirect/3", redirected, {}),
    (
        "request: has a context with arguments",
        "/echo",
        context_arguments,
        {"playwright_context": "agent", "playwright_context_kwargs": {"user_agent": "judge/2.0"}},
    ),
    (
        "request: signs in with the credentials of its context",
        "/basic",
        signed_in,
        {
            "playwright_context": "signed-in",
            "playwright_context_kwargs": {"http_credentials": {"username": "grace", "password": "grace-secret"}},
        },
    ),
    ("request: returns a download", "/downloads/report.csv", download, {}),
]


class JudgeSpider(scrapy.Spider):
    name = "judge"

    async def start(self):
        for test in sample([*TESTS, *OWN]):
            name, path = (test.name, test.path) if isinstance(test, Test) else test[:2]
            shared = {"playwright_include_page": True, "playwright_context": name}
            options = shared if isinstance(test, Test) else test[3]
            meta = {"playwright": True, **options}
            yield scrapy.Request(
                urljoin(SITE, path),
                callback=self.judge,
                errback=self.request_failed,
                cb_kwargs={"test": test},
                meta=meta,
                dont_filter=True,
            )

    async def judge(self, response: Response, test: Test | tuple) -> None:
        if isinstance(test, Test):
            page = response.meta["playwright_page"]
            try:
                await report_run(JUDGE, test.name, lambda: run_async(test.run(Fixture.asynchronous(page))))
            finally:
                await page.context.close()
        else:

            async def check() -> None:
                test[2](response)

            await report_run(JUDGE, test[0], check)

    def request_failed(self, failure) -> None:
        test = failure.request.cb_kwargs["test"]
        name = test.name if isinstance(test, Test) else test[0]
        if "Path is not available when using browser_type.connect()" in failure.getErrorMessage():
            report(JUDGE, name, "skipped", "scrapy-playwright reads a download's path, which a remote browser does not have")
        else:
            report(JUDGE, name, "failed", failure.getTraceback())


logging.disable(logging.CRITICAL)
process = CrawlerProcess(SETTINGS)
process.crawl(JudgeSpider)
process.start()
