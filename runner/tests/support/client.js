// A Playwright client, as a user would write one. Arguments: the launcher's directory (whose Playwright is used), the
// WebSocket's URL, the token, and what to do. It says what it found as lines of JSON.
'use strict';
const path = require('node:path');
const [launcher, url, token, task] = process.argv.slice(2);
const { firefox } = require(path.join(launcher, 'node_modules', 'playwright-core'));

const report = (value) => console.log(JSON.stringify(value));

const tasks = {
  /** What the session shows at first, and then a page's work. */
  async work(browser) {
    const [first] = browser.contexts()[0].pages();
    const found = { contexts: browser.contexts().length, pages: browser.contexts()[0].pages().length };
    await first.waitForFunction(() => document.title !== '');
    const page = await (await browser.newContext()).newPage();
    await page.route('http://site.test/', (route) =>
      route.fulfill({ contentType: 'text/html', body: '<input id=i><button onclick="document.title=i.value">go</button>' }),
    );
    await page.goto('http://site.test/');
    await page.fill('#i', 'typed');
    await page.click('button');
    const screenshot = (await page.screenshot()).length;
    // More than one frame's and one buffer's worth, in both directions.
    const big = await page.evaluate((text) => text.length + text, 'x'.repeat(3 << 20));
    report({ ...found, firstTitle: await first.title(), title: await page.title(), screenshot, big: big.length });
    await browser.close();
  },

  /** Leaves a page with a value behind, as a client does that is killed. */
  async hold(browser) {
    const page = await (await browser.newContext()).newPage();
    await page.goto('data:text/html,<title>held</title><input id=i>');
    await page.fill('#i', 'kept');
    report({ holding: true });
    await new Promise(() => {});
  },

  /** Looks for what another client left. */
  async find(browser) {
    const pages = browser.contexts().flatMap((context) => context.pages());
    const found = await Promise.all(pages.map(async (page) => [await page.title(), await page.locator('#i').count() && await page.inputValue('#i')]));
    report({ found });
    await browser.close();
  },

  /** Works until it is cut off. */
  async busy(browser) {
    const [page] = browser.contexts()[0].pages();
    browser.on('disconnected', () => report({ disconnected: true }));
    for (let round = 0; browser.isConnected(); round++) {
      await page.evaluate(() => 1).catch(() => {});
      if (round === 0) report({ working: true });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  },
};

// It ends by itself: an exit right after `browser.close()` can cut off the goodbye, and the client counts as lost then.
firefox
  .connect(url, { headers: { Authorization: `Bearer ${token}` } })
  .then(tasks[task])
  .catch((error) => {
    report({ error: error.message });
    process.exit(1);
  });
