// The judge Crawlee for Node: one crawl of the shared tests, and crawls that follow links.
'use strict';

const assert = require('node:assert/strict');
const { Configuration, Dataset, PlaywrightCrawler, log } = require('@crawlee/playwright');
const { expect, firefox } = require('@playwright/test');
const { endpoint, headers, report, reportRun, retryWindows, sample, site } = require('./judge.cjs');
const shared = require('./tests.cjs');

const JUDGE = 'crawlee-node';

/** A launcher that connects to the server where Crawlee would launch a browser. */
const launcher = {
  name: () => 'firefox',
  executablePath: () => '',
  async launch(options) {
    delete options.proxy; // a proxy in this process, which Crawlee would give to each context of a browser elsewhere
    const browser = await firefox.connect(endpoint, { headers });
    const context = await browser.newContext();
    retryWindows(browser, context);
    await context.close();
    return browser;
  },
};

/** Crawls `requests` with two pages at a time, each in a context of its own. Resolves to Crawlee's statistics. */
async function crawl(requests, options) {
  const crawler = new PlaywrightCrawler(
    {
      launchContext: { launcher, useIncognitoPages: true },
      browserPoolOptions: { useFingerprints: false },
      useSessionPool: false,
      persistCookiesPerSession: false,
      maxRequestRetries: 0,
      // A constant number, because Crawlee would otherwise derive it from the load of the machine.
      minConcurrency: 2,
      maxConcurrency: 2,
      ...options,
    },
    new Configuration({ persistStorage: false }),
  );
  return crawler.run(requests);
}

const own = [
  ['crawl: follows the links of five lists to 20 items', async () => {
    const prices = [];
    const statistics = await crawl([`${site}/list/1`], {
      async requestHandler({ request, page, enqueueLinks }) {
        if (!request.url.includes('/item/')) await enqueueLinks({ selector: '.item, #next' });
        else prices.push(Number(await page.locator('#price').textContent()));
      },
    });
    assert.equal(statistics.requestsFinished, 25);
    assert.deepEqual(prices.sort((a, b) => a - b), Array.from({ length: 20 }, (_, index) => (index + 1) * 3));
  }],
  ['crawl: visits a URL once', async () => {
    const statistics = await crawl(Array(5).fill(`${site}/item/1`), { async requestHandler() {} });
    assert.equal(statistics.requestsFinished, 1);
  }],
  ['crawl: routes by label', async () => {
    const titles = {};
    const handler = async ({ request, page }) => {
      titles[request.label] = await page.title();
    };
    await crawl(
      [{ url: `${site}/item/2`, label: 'item' }, { url: `${site}/list/2`, label: 'list' }],
      { requestHandler: handler },
    );
    assert.deepEqual(titles, { item: 'Item 2', list: 'List 2' });
  }],
  ['crawl: retries a failed handler, and reports it when it keeps failing', async () => {
    const attempts = [];
    const failed = [];
    const statistics = await crawl([`${site}/item/3`, `${site}/item/4`], {
      maxRequestRetries: 2,
      async requestHandler({ request }) {
        attempts.push(request.url);
        if (request.url.endsWith('/3') || request.retryCount === 0) throw new Error('the handler fails');
      },
      async failedRequestHandler({ request }) {
        failed.push(request.url);
      },
    });
    assert.deepEqual([statistics.requestsFinished, statistics.requestsFailed], [1, 1]);
    assert.deepEqual(failed, [`${site}/item/3`]);
    assert.equal(attempts.length, 5);
  }],
  ['crawl: hooks run before and after the navigation', async () => {
    const seen = [];
    await crawl([`${site}/echo`], {
      preNavigationHooks: [async ({ page }) => page.setExtraHTTPHeaders({ 'X-Judge': 'hook' })],
      postNavigationHooks: [async ({ response }) => seen.push(response.status())],
      async requestHandler({ response }) {
        seen.push((await response.json()).headers['x-judge']);
      },
    });
    assert.deepEqual(seen, [200, 'hook']);
  }],
  ['crawl: stores items in a dataset', async () => {
    const dataset = await Dataset.open('titles', { config: new Configuration({ persistStorage: false }) });
    await crawl([1, 2, 3].map((item) => `${site}/item/${item}`), {
      async requestHandler({ page, request }) {
        await dataset.pushData({ url: request.loadedUrl, title: await page.title() });
      },
    });
    const { items } = await dataset.getData();
    assert.deepEqual(items.map(({ title }) => title).sort(), ['Item 1', 'Item 2', 'Item 3']);
  }],
];

async function main() {
  log.setLevel(log.LEVELS.OFF);
  const tests = sample([...shared.tests, ...own.map(([name, run]) => ({ name, run }))]);
  const [inOneCrawl, crawls] = [tests.filter(({ path }) => path), tests.filter(({ path }) => !path)];
  const byName = new Map(inOneCrawl.map((test) => [test.name, test]));
  // Several tests open the same URL, so their names identify the requests.
  await crawl(inOneCrawl.map(({ name, path }) => ({ url: site + path, uniqueKey: name })), {
    requestHandlerTimeoutSecs: 60,
    requestHandler: ({ page, request }) =>
      reportRun(JUDGE, request.uniqueKey, () =>
        byName.get(request.uniqueKey).run({ page, browser: page.context().browser(), expect }),
      ),
    async failedRequestHandler({ request }, error) {
      report(JUDGE, request.uniqueKey, 'failed', String(error.stack));
    },
  });
  for (const { name, run } of crawls) await reportRun(JUDGE, name, run);
}

main().then(() => process.exit(0));
