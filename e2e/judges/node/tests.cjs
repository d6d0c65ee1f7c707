// The tests that the judges in Node share. A judge opens `path` in a page of a context of its own, and calls `run` with
// the page, its browser and Playwright's `expect`. `run` opens further pages in contexts that it creates, because a
// context that came with a page (`browser.newPage`) accepts no other page.
'use strict';

const assert = require('node:assert/strict');
const { createHash } = require('node:crypto');
const { site, Skip } = require('./judge.cjs');

const secureSite = site.replace(/^http:/, 'https:');
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const tests = [];

function test(name, path, run) {
  tests.push({ name, path, run });
}

/** The content of the file that `click` downloads, and its suggested name. */
async function download(page, click, timeout = 30_000) {
  const [started] = await Promise.all([page.waitForEvent('download', { timeout }), click()]);
  // `started.path()` is not available to a client that is connected to a remote browser.
  const stream = await started.createReadStream();
  return { name: started.suggestedFilename(), content: Buffer.concat(await stream.toArray()) };
}

/** Opens `path` in a new context, calls `body` with the page, and closes the context. */
async function inContext(browser, options, path, body) {
  const context = await browser.newContext(options);
  try {
    const page = await context.newPage();
    if (path) await page.goto(new URL(path, site).href);
    return await body(page, context);
  } finally {
    await context.close();
  }
}

/** The headers that the site receives when `page` opens it. */
async function receivedHeaders(page) {
  const response = await page.goto(`${site}/echo`);
  return (await response.json()).headers;
}

test('iframes: lists the frames with their parents', '/iframes', async ({ page, expect }) => {
  await expect(page.frameLocator('[name=first]').frameLocator('[name=nested]').getByLabel('deep')).toBeVisible();
  assert.equal(page.frames().length, 5);
  // Over WebDriver BiDi, Playwright may report a frame before it knows the frame's name, so `page.frame` may not find it.
  const frameOf = async (parent, name) => (await parent.waitForSelector(`[name=${name}]`)).contentFrame();
  const first = await frameOf(page, 'first');
  const nested = await frameOf(first, 'nested');
  assert.equal(nested.parentFrame(), first);
  assert.deepEqual(first.childFrames(), [nested]);
});

test('iframes: receives messages of two frames', '/iframes', async ({ page, expect }) => {
  await page.frameLocator('[name=first]').getByRole('button').click();
  await page.frameLocator('[name=first]').getByRole('button').click();
  await expect(page.locator('#messages li')).toHaveText(['first counted 1', 'first counted 2']);
  await page.frameLocator('[name=second]').getByRole('button').click();
  await expect(page.locator('#messages li')).toHaveCount(3);
  await expect(page.locator('#messages li').last()).toHaveText('second counted 1');
});

test('iframes: types in a nested frame', '/iframes', async ({ page, expect }) => {
  const nested = page.frameLocator('[name=first]').frameLocator('[name=nested]');
  await nested.getByLabel('deep').pressSequentially('typed');
  await expect(nested.locator('output')).toHaveText('TYPED');
  await expect(page.frameLocator('[name=inline]').locator('p')).toHaveText('inline document');
});

test('downloads: saves a file', '/downloads', async ({ page }) => {
  const { name, content } = await download(page, () => page.click('#report'));
  assert.equal(name, 'report.csv');
  assert.equal(content.toString(), 'name,count\nfirst,1\nsecond,2\n');
});

test('downloads: saves 1 MiB without a changed byte', '/downloads', async ({ page }) => {
  const { content } = await download(page, () => page.click('#large'));
  assert.equal(content.length, 1 << 20);
  assert.equal(sha256(content), sha256(Buffer.from(Uint8Array.from({ length: 1 << 20 }, (_, index) => index % 251))));
});

test('downloads: saves a renamed file', '/downloads', async ({ page }) => {
  const { name } = await download(page, () => page.click('#renamed'));
  assert.equal(name, 'renamed.csv');
});

test('downloads: saves a blob', '/downloads', async ({ page }) => {
  const { content } = await download(page, () => page.click('#blob'), 5_000).catch((error) => {
    if (error.name !== 'TimeoutError') throw error;
    throw new Skip('Firefox announces the download of a blob without an id, and Playwright ignores it');
  });
  assert.equal(content.toString(), 'made in the page');
});

test('popup: reports the popup and its opener', '/popup', async ({ page, expect }) => {
  const [popup] = await Promise.all([page.waitForEvent('popup'), page.click('#open')]);
  await expect(popup).toHaveTitle('Popup child');
  assert.equal(await popup.opener(), page);
  await popup.click('#answer');
  await expect(page.locator('#messages li')).toHaveText(['answer of the popup']);
});

test('popup: sees a popup close itself', '/popup', async ({ page }) => {
  const [popup] = await Promise.all([page.waitForEvent('popup'), page.click('#open')]);
  await Promise.all([popup.waitForEvent('close'), page.click('#close')]);
  assert.ok(popup.isClosed());
  assert.equal(page.context().pages().length, 1);
});

test('popup: a link without an opener, and a window that is opened twice', '/popup', async ({ page, expect }) => {
  const [blank] = await Promise.all([page.context().waitForEvent('page'), page.click('#blank')]);
  await expect(blank.locator('output')).toHaveText('has no opener');
  const [named] = await Promise.all([page.waitForEvent('popup'), page.click('#named')]);
  await expect(named.locator('output')).toHaveText('has an opener');
  await page.click('#named');
  await expect(named.locator('output')).toHaveText('has an opener');
  assert.equal(page.context().pages().length, 3);
});

test('basic auth: 401 without credentials', '/', async ({ browser, expect }) => {
  await inContext(browser, {}, null, async (page) => {
    const response = await page.goto(`${site}/basic`);
    assert.equal(response.status(), 401);
    await expect(page).toHaveTitle('Unauthorized');
  });
});

test('basic auth: signs in', '/', async ({ browser, expect }) => {
  const httpCredentials = { username: 'ada', password: 'ada-secret' };
  await inContext(browser, { httpCredentials }, '/basic', async (page) => {
    await expect(page.locator('p')).toHaveText('signed in as ada');
    await page.reload();
    await expect(page.locator('p')).toHaveText('signed in as ada');
  });
});

test('basic auth: two contexts have different users', '/', async ({ browser, expect }) => {
  const signIn = (username) =>
    inContext(browser, { httpCredentials: { username, password: `${username}-secret` } }, '/basic', (page) =>
      expect(page.locator('p')).toHaveText(`signed in as ${username}`),
    );
  await Promise.all([signIn('ada'), signIn('grace')]);
});

test('https: rejects the certificate of the site', '/', async ({ browser }) => {
  await inContext(browser, {}, null, async (page) => {
    await assert.rejects(page.goto(secureSite));
  });
});

test('https: ignores certificate errors', '/', async ({ browser, expect }) => {
  await inContext(browser, { ignoreHTTPSErrors: true }, secureSite, async (page) => {
    await expect(page).toHaveTitle('Fixtures');
    assert.equal(await page.evaluate(() => isSecureContext), true);
  });
});

/** Opens the page of the service worker and waits until it controls the page. */
async function withServiceWorker(browser, body) {
  await inContext(browser, { ignoreHTTPSErrors: true }, `${secureSite}/worker/`, async (page, context) => {
    await page.waitForFunction(() => document.querySelector('#state').value !== 'not registered');
    const state = await page.locator('#state').textContent();
    if (state !== 'controlled') throw new Skip(`no service worker with a self-signed certificate: ${state}`);
    await body(page, context);
  });
}

test('service worker: answers requests of its page', '/', async ({ browser, expect }) => {
  await withServiceWorker(browser, async (page) => {
    await page.getByRole('button').click();
    await expect(page.locator('#answer')).toHaveText('from the service worker');
  });
});

test('service worker: is shared by the pages of a context only', '/', async ({ browser }) => {
  await withServiceWorker(browser, async (page, context) => {
    const second = await context.newPage();
    await second.goto(`${secureSite}/worker/`);
    assert.equal(await second.evaluate(() => navigator.serviceWorker.controller !== null), true);
    await inContext(browser, { ignoreHTTPSErrors: true }, secureSite, async (other) => {
      assert.equal(await other.evaluate(async () => (await navigator.serviceWorker.getRegistrations()).length), 0);
    });
  });
});

test('WebSocket: exchanges messages', '/socket', async ({ page, expect }) => {
  await expect(page.locator('output')).toHaveText('open');
  await page.getByLabel('text').fill('from the page');
  await page.getByRole('button').click();
  await expect(page.locator('#messages li')).toHaveText(['welcome', 'echo from the page']);
});

test('WebSocket: receives 200 messages in order', '/socket', async ({ page, expect }) => {
  await page.getByLabel('text').fill('burst 200');
  await expect(page.locator('output')).toHaveText('open');
  await page.getByRole('button').click();
  await expect(page.locator('#messages li')).toHaveCount(201);
  const received = await page.locator('#messages li').allTextContents();
  assert.deepEqual(received.slice(1), Array.from({ length: 200 }, (_, index) => `message ${index + 1}`));
});

test('WebSocket: receives the code of a Close frame', '/socket', async ({ page, expect }) => {
  await expect(page.locator('output')).toHaveText('open');
  await page.getByLabel('text').fill('close');
  await page.getByRole('button').click();
  await expect(page.locator('output')).toHaveText('closed 4001 requested');
});

test('WebSocket: a route answers instead of the site', '/', async ({ browser, expect }) => {
  await inContext(browser, {}, null, async (page) => {
    await page.routeWebSocket(/\/socket\/echo$/, (socket) => socket.onMessage((text) => socket.send(`routed ${text}`)));
    await page.goto(`${site}/socket`);
    await page.getByLabel('text').fill('hello');
    await page.getByRole('button').click();
    await expect(page.locator('#messages li')).toHaveText(['routed hello']);
  });
});

test('shadow DOM: locators find elements in open roots', '/shadow', async ({ page, expect }) => {
  await expect(page.getByText('slotted title')).toBeVisible();
  await expect(page.locator('x-card output')).toHaveCount(2);
  assert.equal(await page.evaluate(() => document.querySelectorAll('x-card output').length), 0);
});

test('shadow DOM: clicks in nested roots', '/shadow', async ({ page, expect }) => {
  const second = page.locator('x-counter').nth(1);
  for (let count = 1; count <= 3; count++) await second.getByRole('button').click();
  await expect(page.locator('x-counter output')).toHaveText(['0', '3']);
});

test('shadow DOM: closed roots stay closed', '/shadow', async ({ page, expect }) => {
  await expect(page.locator('x-sealed')).toBeVisible();
  await expect(page.getByText('sealed text')).toHaveCount(0);
});

test('upload: sends two files and a field', '/upload', async ({ page, expect }) => {
  const files = ['first', 'second'].map((name) => ({ name: `${name}.txt`, mimeType: 'text/plain', buffer: Buffer.from(name) }));
  await page.setInputFiles('[type=file]', files);
  await page.getByLabel('note').fill('a note');
  await page.getByRole('button', { name: 'send' }).click();
  const lines = files.map(({ name, buffer }) => `${name}: ${buffer.length} bytes, ${sha256(buffer).slice(0, 16)}`);
  await expect(page.locator('li')).toHaveText([...lines, 'note = a note']);
});

test('upload: answers a file chooser', '/upload', async ({ page, expect }) => {
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.click('[type=file]')]);
  assert.equal(chooser.isMultiple(), true);
  await chooser.setFiles({ name: 'chosen.bin', mimeType: 'application/octet-stream', buffer: Buffer.from([0, 1, 255]) });
  await page.getByRole('button', { name: 'send' }).click();
  await expect(page.locator('li').first()).toHaveText(/^chosen\.bin: 3 bytes/);
});

test('upload: sends 1 MiB without a changed byte', '/upload', async ({ page, expect }) => {
  const buffer = Buffer.from(Uint8Array.from({ length: 1 << 20 }, (_, index) => (index * 7) % 256));
  await page.setInputFiles('[type=file]', { name: 'large.bin', mimeType: 'application/octet-stream', buffer });
  await page.getByRole('button', { name: 'send' }).click();
  await expect(page.locator('li').first()).toHaveText(`large.bin: ${1 << 20} bytes, ${sha256(buffer).slice(0, 16)}`);
});

test('redirect: follows three redirects', '/redirect', async ({ page, expect }) => {
  const [response] = await Promise.all([page.waitForResponse(`${site}/redirect/0`), page.getByText('three').click()]);
  await expect(page).toHaveURL(`${site}/redirect/0`);
  const chain = [];
  for (let request = response.request(); request; request = request.redirectedFrom()) chain.push(new URL(request.url()).pathname);
  assert.deepEqual(chain, ['/redirect/0', '/redirect/1', '/redirect/2', '/redirect/3']);
});

test('redirect: follows a meta refresh, a script and a form', '/redirect', async ({ page, expect }) => {
  for (const way of ['meta', 'script', 'post']) {
    await page.goto(`${site}/redirect`);
    await page.getByText(way, { exact: true }).click();
    await expect(page).toHaveURL(`${site}/redirect/0`);
    await expect(page.locator('p')).toHaveText('by GET');
  }
});

test('redirect: fails for a loop', '/redirect', async ({ page }) => {
  await assert.rejects(page.goto(`${site}/redirect/loop`), /NS_ERROR_REDIRECT_LOOP|redirect/i);
});

test('large DOM: reads 5000 rows', '/large', async ({ page, expect }) => {
  await expect(page.locator('tr')).toHaveCount(5000);
  const sum = await page.$$eval('td:last-child', (cells) => cells.reduce((total, cell) => total + Number(cell.textContent), 0));
  assert.equal(sum, Array.from({ length: 5000 }, (_, index) => index % 7).reduce((total, value) => total + value));
});

test('large DOM: appends rows and scrolls to the last', '/large', async ({ page, expect }) => {
  await page.getByRole('button').click();
  await expect(page.locator('tr')).toHaveCount(6000);
  await page.locator('#row-5999').scrollIntoViewIfNeeded();
  await expect(page.locator('#row-5999')).toBeInViewport();
});

test('large DOM: takes a screenshot of a row and the text of the page', '/large', async ({ page }) => {
  const screenshot = await page.locator('#row-2500').screenshot();
  assert.equal(screenshot.subarray(1, 4).toString(), 'PNG');
  const box = await page.locator('#row-2500').boundingBox();
  assert.ok(Math.abs(screenshot.readUInt32BE(16) - box.width) <= 2, `the screenshot has another width than ${box.width}`);
  assert.equal((await page.content()).match(/<tr /g).length, 5000);
});

test('slow response: waits for it', '/slow', async ({ page, expect }) => {
  const [response] = await Promise.all([page.waitForResponse('**/slow/400'), page.getByRole('button').click()]);
  assert.equal(response.status(), 200);
  await expect(page.locator('output')).toContainText('After 400 ms');
});

test('slow response: receives it in parts', '/slow', async ({ page, expect }) => {
  await page.goto(`${site}/slow/parts`, { waitUntil: 'commit' });
  await expect(page.locator('p')).toHaveText(['part 1', 'part 2', 'part 3']);
});

test('slow response: gives up after a timeout', '/slow', async ({ page, expect }) => {
  await assert.rejects(page.goto(`${site}/slow/never`, { timeout: 500 }), { name: 'TimeoutError' });
  await page.goto(`${site}/slow/1`);
  await expect(page).toHaveTitle('After 1 ms');
});

test('dialog: accepts an alert', '/dialog', async ({ page, expect }) => {
  const shown = [];
  page.once('dialog', async (dialog) => {
    shown.push([dialog.type(), dialog.message()]);
    await dialog.accept();
  });
  await page.click('#alert');
  await expect(page.locator('output')).toHaveText('alerted');
  assert.deepEqual(shown, [['alert', 'an alert']]);
});

test('dialog: accepts and dismisses a question', '/dialog', async ({ page, expect }) => {
  page.once('dialog', (dialog) => dialog.accept());
  await page.click('#confirm');
  await expect(page.locator('output')).toHaveText('confirmed: true');
  // Playwright dismisses a dialog that no listener handles.
  await page.click('#confirm');
  await expect(page.locator('output')).toHaveText('confirmed: false');
});

test('dialog: answers a prompt', '/dialog', async ({ page, expect }) => {
  page.once('dialog', (dialog) => dialog.accept(`${dialog.defaultValue()}, changed`));
  await page.click('#prompt');
  await expect(page.locator('output')).toHaveText('prompted: a default, changed');
});

test('contexts: do not share cookies', '/', async ({ browser }) => {
  await inContext(browser, {}, '/cookie?owner=first', (first) =>
    inContext(browser, {}, '/cookie?owner=second', async (second) => {
      assert.equal((await receivedHeaders(first)).cookie, 'owner=first');
      assert.equal((await receivedHeaders(second)).cookie, 'owner=second');
    }),
  );
});

test('contexts: restore a storage state', '/', async ({ browser }) => {
  const { cookies } = await inContext(browser, {}, '/cookie?owner=saved', (_, context) => context.storageState());
  const origins = [{ origin: site, localStorage: [{ name: 'key', value: 'kept' }] }];
  await inContext(browser, { storageState: { cookies, origins } }, '/', async (page) => {
    assert.equal(await page.evaluate(() => localStorage.getItem('key')), 'kept');
    assert.equal((await receivedHeaders(page)).cookie, 'owner=saved');
  });
});

test('contexts: save the localStorage', '/', async ({ browser }) => {
  const { origins } = await inContext(browser, {}, '/', async (page, context) => {
    await page.evaluate(() => localStorage.setItem('key', 'kept'));
    return context.storageState();
  });
  if (origins.length === 0) throw new Skip("Playwright cannot list the keys of localStorage in Firefox's sandbox");
  assert.deepEqual(origins, [{ origin: site, localStorage: [{ name: 'key', value: 'kept' }] }]);
});

test('contexts: have their own headers, locale and user agent', '/', async ({ browser }) => {
  const options = { locale: 'de-CH', userAgent: 'judge/1.0', extraHTTPHeaders: { 'X-Judge': 'present' } };
  await inContext(browser, options, null, async (page) => {
    const received = await receivedHeaders(page);
    assert.equal(received['user-agent'], 'judge/1.0');
    assert.equal(received['x-judge'], 'present');
    assert.equal(await page.evaluate(() => navigator.language), 'de-CH');
  });
});

test('contexts: a route answers, changes and aborts requests', '/', async ({ browser, expect }) => {
  await inContext(browser, {}, null, async (page, context) => {
    await context.route('**/slow/*', (route) => route.fulfill({ body: 'answered by the route' }));
    await context.route('**/echo', (route) => route.continue({ headers: { ...route.request().headers(), 'x-route': 'yes' } }));
    await context.route('**/item/*', (route) => route.abort());
    assert.equal((await receivedHeaders(page))['x-route'], 'yes');
    await page.goto(`${site}/slow`);
    await page.getByRole('button').click();
    await expect(page.locator('output')).toHaveText('answered by the route');
    await assert.rejects(page.goto(`${site}/item/1`));
  });
});

test('contexts: four pages work at the same time', '/', async ({ browser, expect }) => {
  await inContext(browser, {}, null, async (_, context) => {
    const visit = async (item) => {
      const page = await context.newPage();
      await page.goto(`${site}/item/${item}`);
      await expect(page.locator('#price')).toHaveText(String(item * 3));
    };
    await Promise.all([1, 2, 3, 4].map(visit));
    assert.equal(context.pages().length, 5);
  });
});

module.exports = { tests, inContext };
