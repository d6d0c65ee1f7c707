// A typical Playwright client. Arguments: the launcher's directory, whose Playwright it uses, the WebSocket URL, the
// token, and the task. It reports its findings as JSON lines.
'use strict';
const path = require('node:path');
const [launcher, url, token, task] = process.argv.slice(2);
const { firefox } = require(path.join(launcher, 'node_modules', 'playwright-core'));

const report = (value) => console.log(JSON.stringify(value));

/** What the client of a task asks for beyond its own contexts. */
const queries = { work: 'page=open', hold: 'client=worker', find: 'page=open&client=worker', busy: 'page=open', wait: '', overload: '' };

const tasks = {
  /** Reports the initial page, then works in a page of its own context. */
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
    // Larger than one frame and one buffer, in both directions.
    const big = await page.evaluate((text) => text.length + text, 'x'.repeat(3 << 20));
    report({ ...found, firstTitle: await first.title(), title: await page.title(), screenshot, big: big.length });
    await browser.close();
  },

  /** Opens a page with a value and holds the connection until the client is killed. */
  async hold(browser) {
    const page = await (await browser.newContext()).newPage();
    await page.goto('data:text/html,<title>held</title><input id=i>');
    await page.fill('#i', 'kept');
    report({ holding: true });
    await new Promise(() => {});
  },

  /** Reports the pages of all contexts that it is shown. */
  async find(browser) {
    const pages = browser.contexts().flatMap((context) => context.pages());
    const found = await Promise.all(pages.map(async (page) => [await page.title(), await page.locator('#i').count() && await page.inputValue('#i')]));
    report({ found });
    await browser.close();
  },

  /** Makes a call that is never answered. */
  async wait(browser) {
    const page = await browser.newPage();
    const waiting = page.evaluate(() => new Promise(() => {}));
    report({ waiting: true });
    await waiting.catch((error) => report({ error: error.message }));
  },

  /** Asks for a result that is too large for Playwright's connection to the browser. */
  async overload(browser) {
    const page = await browser.newPage();
    await page.evaluate(() => ['a', 'b', 'c'].map((letter) => letter.repeat(100 << 20)));
  },

  /** Evaluates expressions until the connection is closed. */
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

// There is no explicit exit on success: exiting right after `browser.close()` can cut off the Close frame, and the
// server would consider the client lost.
firefox
  .connect(`${url}?${queries[task]}`, { headers: { Authorization: `Bearer ${token}` } })
  .then(tasks[task])
  .catch((error) => {
    report({ error: error.message });
    process.exit(1);
  });
