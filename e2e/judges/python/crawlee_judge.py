"""The judge Crawlee for Python: one crawl of the shared tests, and crawls that follow links."""

import asyncio
import itertools
import logging
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urljoin

from crawlee import ConcurrencySettings, Request
from crawlee.browsers import BrowserPool, PlaywrightBrowserController, PlaywrightBrowserPlugin
from crawlee.crawlers import PlaywrightCrawler, PlaywrightCrawlingContext
from crawlee.statistics import FinalStatistics
from crawlee.storage_clients import MemoryStorageClient
from crawlee.storages import Dataset, RequestQueue
from judge import ENDPOINT, HEADERS, SITE, report, report_run, sample
from shared import TESTS, Fixture, run_async

JUDGE = "crawlee-python"
#: Numbers of the crawlers.
NUMBERS = itertools.count(1)


class RemotePlugin(PlaywrightBrowserPlugin):
    """Connects to the server where Crawlee would launch a browser."""

    async def new_browser(self) -> PlaywrightBrowserController:
        browser = await self._playwright.firefox.connect(ENDPOINT, headers=HEADERS)
        return PlaywrightBrowserController(browser, use_incognito_pages=True, header_generator=None)


async def new_crawler(**options) -> PlaywrightCrawler:
    """A crawler with two pages at a time, each in a context of its own."""
    # Crawlers would otherwise share the default queue, which ignores a URL that an earlier crawler has visited.
    queue = await RequestQueue.open(alias=f"crawl-{next(NUMBERS)}", storage_client=MemoryStorageClient())
    return PlaywrightCrawler(
        browser_pool=BrowserPool(plugins=[RemotePlugin()]),
        concurrency_settings=ConcurrencySettings(min_concurrency=2, max_concurrency=2, desired_concurrency=2),
        storage_client=MemoryStorageClient(),
        request_manager=queue,
        use_session_pool=False,
        retry_on_blocked=False,
        request_handler_timeout=timedelta(seconds=60),
        configure_logging=False,
        **{"max_request_retries": 0, **options},
    )


async def crawl(urls: list, handler: Callable, **options) -> FinalStatistics:
    crawler = await new_crawler(**options)
    crawler.router.default_handler(handler)
    return await crawler.run(urls)


def url(path: str) -> str:
    return urljoin(SITE, path)


async def follows_links() -> None:
    prices = []

    async def handler(context: PlaywrightCrawlingContext) -> None:
        if "/item/" in context.request.url:
            prices.append(int(await context.page.locator("#price").text_content()))
        else:
            await context.enqueue_links(selector=".item, #next")

    statistics = await crawl([url("/list/1")], handler)
    assert statistics.requests_finished == 25, statistics
    assert sorted(prices) == [item * 3 for item in range(1, 21)]


async def visits_once() -> None:
    visited = Counter()

    async def handler(context: PlaywrightCrawlingContext) -> None:
        visited[context.request.url] += 1

    await crawl([url("/item/1")] * 5, handler)
    assert visited == {url("/item/1"): 1}


async def routes_by_label() -> None:
    titles = {}
    crawler = await new_crawler()

    async def handler(context: PlaywrightCrawlingContext) -> None:
        titles[context.request.label] = await context.page.title()

    for label in ["item", "list"]:
        crawler.router.handler(label)(handler)
    await crawler.run([Request.from_url(url(f"/{label}/2"), label=label) for label in ["item", "list"]])
    assert titles == {"item": "Item 2", "list": "List 2"}


async def retries() -> None:
    attempts = Counter()

    async def handler(context: PlaywrightCrawlingContext) -> None:
        attempts[context.request.url] += 1
        if context.request.url.endswith("/3") or attempts[context.request.url] == 1:
            raise RuntimeError("the handler fails")

    statistics = await crawl([url("/item/3"), url("/item/4")], handler, max_request_retries=2)
    assert (statistics.requests_finished, statistics.requests_failed) == (1, 1), statistics
    assert attempts == {url("/item/3"): 3, url("/item/4"): 2}


async def hooks() -> None:
    received = []
    crawler = await new_crawler()

    @crawler.pre_navigation_hook
    async def set_header(context) -> None:
        await context.page.set_extra_http_headers({"X-Judge": "hook"})

    async def handler(context: PlaywrightCrawlingContext) -> None:
        received.append((await context.response.json())["headers"]["x-judge"])

    crawler.router.default_handler(handler)
    await crawler.run([url("/echo")])
    assert received == ["hook"]


async def dataset() -> None:
    items = await Dataset.open(alias="titles", storage_client=MemoryStorageClient())

    async def handler(context: PlaywrightCrawlingContext) -> None:
        await items.push_data({"url": context.request.url, "title": await context.page.title()})

    await crawl([url(f"/item/{item}") for item in range(1, 4)], handler)
    assert sorted([item["title"] async for item in items.iterate_items()]) == ["Item 1", "Item 2", "Item 3"]


OWN = [
    ("crawl: follows the links of five lists to 20 items", follows_links),
    ("crawl: visits a URL once", visits_once),
    ("crawl: routes by label", routes_by_label),
    ("crawl: retries a failed handler, and reports it when it keeps failing", retries),
    ("crawl: hooks run before the navigation", hooks),
    ("crawl: stores items in a dataset", dataset),
]


async def crawl_shared(tests: list) -> None:
    by_name = {test.name: test for test in tests}
    crawler = await new_crawler()

    @crawler.router.default_handler
    async def handler(context: PlaywrightCrawlingContext) -> None:
        test = by_name[context.request.unique_key]
        await report_run(JUDGE, test.name, lambda: run_async(test.run(Fixture.asynchronous(context.page))))

    @crawler.failed_request_handler
    async def failed(context, error: Exception) -> None:
        report(JUDGE, context.request.unique_key, "failed", "".join(traceback.format_exception(error)))

    # Several tests open the same URL, so their names identify the requests.
    await crawler.run([Request.from_url(url(test.path), unique_key=test.name) for test in tests])


async def main() -> None:
    logging.disable(logging.CRITICAL)
    tests = sample([*TESTS, *OWN])
    await crawl_shared([test for test in tests if test in TESTS])
    for name, run in [test for test in tests if test in OWN]:
        await report_run(JUDGE, name, run)


asyncio.run(main())
