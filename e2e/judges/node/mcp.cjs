// The judge Playwright MCP: calls its tools on the pages of the site. A test's name starts with its group, and each
// group has a server of its own.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { reportRun, sample, site, Skip } = require('./judge.cjs');
const { McpClient, section } = require('./mcp-client.cjs');

const JUDGE = 'playwright-mcp';
const secureSite = site.replace(/^http:/, 'https:');
const tests = [];

function test(name, run) {
  tests.push({ name, run });
}

const open = (mcp, where) => mcp.call('navigate', { url: new URL(where, site).href });
const click = (mcp, target) => mcp.call('click', { element: 'an element', target });
const type = (mcp, target, text) => mcp.call('type', { element: 'a field', target, text });
const textOf = (mcp, selector) => mcp.evaluate('(element) => element.textContent', selector);
const textsOf = (mcp, selector) =>
  mcp.evaluate(`() => [...document.querySelectorAll('${selector}')].map((element) => element.textContent)`);

/** Waits until an element has the text. */
async function waitForText(mcp, selector, text) {
  const condition = `document.querySelector(${JSON.stringify(selector)})?.textContent === ${JSON.stringify(text)}`;
  await mcp.runCode(`async (page) => { await page.waitForFunction(() => ${condition}); return true; }`);
}

/** Waits until the server has saved a download, and returns the file's content, or undefined after the timeout. */
async function savedFile(mcp, name, timeout = 30_000) {
  const file = path.join(mcp.folder, name);
  for (const end = Date.now() + timeout; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 100))) {
    if (fs.existsSync(file) && fs.statSync(file).size > 0) return fs.readFileSync(file);
  }
}

test('protocol: lists the tools', async (mcp) => {
  const tools = await mcp.tools();
  for (const tool of ['navigate', 'snapshot', 'click', 'tabs', 'evaluate']) assert.ok(tools.includes(`browser_${tool}`));
  assert.ok(tools.length >= 20, `${tools.length} tools`);
});

test('protocol: rejects an unknown tool and wrong arguments', async (mcp) => {
  assert.equal((await mcp.tryCall('no_such_tool')).isError, true);
  assert.equal((await mcp.tryCall('navigate', { url: 7 })).isError, true);
});

test('navigation: reports URL, title and snapshot', async (mcp) => {
  const text = await open(mcp, '/');
  assert.ok(text.includes(`- Page URL: ${site}/`));
  assert.ok(text.includes('- Page Title: Fixtures'));
  assert.equal((await mcp.call('snapshot')).match(/- link /g).length, 12);
});

test('navigation: goes back', async (mcp) => {
  await open(mcp, '/list/1');
  await open(mcp, '/list/2');
  await mcp.call('navigate_back');
  assert.equal(await textOf(mcp, 'h1'), 'List 1');
});

test('navigation: clicks a link of the snapshot', async (mcp) => {
  await open(mcp, '/list/3');
  const text = await click(mcp, await mcp.reference('link "next"'));
  assert.ok(text.includes('- Page Title: List 4'));
});

test('iframes: the snapshot contains the frames', async (mcp) => {
  await open(mcp, '/iframes');
  await mcp.runCode(`async (page) => {
    await page.frameLocator('[name=first]').frameLocator('[name=nested]').getByLabel('deep').waitFor();
    return true;
  }`);
  const snapshot = await mcp.call('snapshot');
  assert.equal(snapshot.match(/button "count"/g).length, 2);
  for (const text of ['textbox "deep"', 'inline document']) assert.ok(snapshot.includes(text), snapshot);
});

test('iframes: clicks in a frame', async (mcp) => {
  await open(mcp, '/iframes');
  const button = await mcp.reference('button "count"');
  await click(mcp, button);
  await click(mcp, button);
  await waitForText(mcp, '#messages li:nth-child(2)', 'first counted 2');
});

test('iframes: types in a nested frame', async (mcp) => {
  await open(mcp, '/iframes');
  await type(mcp, await mcp.reference('textbox "deep"'), 'typed');
  assert.ok((await mcp.call('snapshot')).includes('TYPED'));
});

test('downloads: saves a file', async (mcp) => {
  await open(mcp, '/downloads');
  await click(mcp, '#report');
  assert.equal(String(await savedFile(mcp, 'report.csv')), 'name,count\nfirst,1\nsecond,2\n');
});

test('downloads: saves a blob', async (mcp) => {
  await open(mcp, '/downloads');
  await click(mcp, '#blob');
  const content = await savedFile(mcp, 'blob.txt', 5_000);
  if (!content) throw new Skip('Firefox announces the download of a blob without an id, and Playwright ignores it');
  assert.equal(content.toString(), 'made in the page');
});

test('popup: lists it as a tab and selects it', async (mcp) => {
  await open(mcp, '/popup');
  await click(mcp, '#open');
  assert.match(await mcp.call('tabs', { action: 'list' }), /- 1:.*\/popup\/child/);
  await mcp.call('tabs', { action: 'select', index: 1 });
  assert.equal(await textOf(mcp, 'output'), 'has an opener');
  const tabs = await mcp.call('tabs', { action: 'close', index: 1 });
  assert.doesNotMatch(tabs, /popup\/child/);
});

test('popup: sends a message to its opener', async (mcp) => {
  await open(mcp, '/popup');
  await click(mcp, '#open');
  await mcp.call('tabs', { action: 'select', index: 1 });
  await click(mcp, '#answer');
  await mcp.call('tabs', { action: 'close', index: 1 });
  await waitForText(mcp, '#messages li', 'answer of the popup');
});

test('popup: opens and closes tabs', async (mcp) => {
  await open(mcp, '/item/1');
  await mcp.call('tabs', { action: 'new' });
  await open(mcp, '/item/2');
  const tabs = await mcp.call('tabs', { action: 'list' });
  assert.match(tabs, /- 0: \[Item 1\]/);
  assert.match(tabs, /- 1: \(current\) \[Item 2\]/);
  await mcp.call('tabs', { action: 'close' });
  assert.equal(await textOf(mcp, 'h1'), 'Item 1');
});

test('basic auth: 401 without credentials', async (mcp) => {
  const { text } = await mcp.tryCall('navigate', { url: `${site}/basic` });
  assert.match(text, /Unauthorized/);
  assert.equal(await textOf(mcp, 'h1'), 'Unauthorized');
});

test('basic auth: signs in in a context of its own', async (mcp) => {
  await open(mcp, '/');
  const text = await mcp.runCode(`async (page) => {
    const httpCredentials = { username: 'ada', password: 'ada-secret' };
    const context = await page.context().browser().newContext({ httpCredentials });
    const other = await context.newPage();
    await other.goto('${site}/basic');
    const text = await other.locator('p').textContent();
    await context.close();
    return text;
  }`);
  assert.equal(text, 'signed in as ada');
});

/** Opens the page of the service worker and waits until it controls the page. */
async function openServiceWorker(mcp) {
  await open(mcp, `${secureSite}/worker/`);
  const state = await mcp.runCode(`async (page) => {
    await page.waitForFunction(() => document.querySelector('#state').value !== 'not registered');
    return page.locator('#state').textContent();
  }`);
  if (state !== 'controlled') throw new Skip(`no service worker with a self-signed certificate: ${state}`);
}

test('service worker: answers requests of its page', async (mcp) => {
  await openServiceWorker(mcp);
  await click(mcp, await mcp.reference('button "fetch"'));
  await waitForText(mcp, '#answer', 'from the service worker');
});

test('service worker: controls a second tab', async (mcp) => {
  await openServiceWorker(mcp);
  await mcp.call('tabs', { action: 'new' });
  await open(mcp, `${secureSite}/worker/`);
  assert.equal(await mcp.evaluate('() => navigator.serviceWorker.controller !== null'), true);
  await mcp.call('tabs', { action: 'close' });
});

test('WebSocket: exchanges messages', async (mcp) => {
  await open(mcp, '/socket');
  await waitForText(mcp, 'output', 'open');
  await type(mcp, await mcp.reference('textbox "text"'), 'from the page');
  await click(mcp, await mcp.reference('button "send"'));
  await waitForText(mcp, '#messages li:nth-child(2)', 'echo from the page');
});

test('WebSocket: receives 200 messages in order', async (mcp) => {
  await open(mcp, '/socket');
  await waitForText(mcp, 'output', 'open');
  await type(mcp, 'input', 'burst 200');
  await click(mcp, 'button');
  await waitForText(mcp, '#messages li:nth-child(201)', 'message 200');
  const received = await textsOf(mcp, '#messages li');
  assert.deepEqual(received.slice(1), Array.from({ length: 200 }, (_, index) => `message ${index + 1}`));
});

test('WebSocket: receives the code of a Close frame', async (mcp) => {
  await open(mcp, '/socket');
  await waitForText(mcp, 'output', 'open');
  await type(mcp, 'input', 'close');
  await click(mcp, 'button');
  await waitForText(mcp, 'output', 'closed 4001 requested');
});

test('shadow DOM: the snapshot contains open roots only', async (mcp) => {
  const snapshot = (await open(mcp, '/shadow')) && (await mcp.call('snapshot'));
  assert.equal(snapshot.match(/button "add"/g).length, 2);
  assert.ok(snapshot.includes('slotted title'));
  assert.ok(!snapshot.includes('sealed text'));
});

test('shadow DOM: clicks in nested roots', async (mcp) => {
  await open(mcp, '/shadow');
  const button = await mcp.reference('button "add"');
  for (let count = 1; count <= 3; count++) await click(mcp, button);
  assert.equal(await mcp.runCode(`async (page) => page.locator('x-counter output').first().textContent()`), '3');
});

test('upload: answers a file chooser with two files', async (mcp) => {
  const paths = ['first', 'second'].map((name) => path.join(mcp.folder, `${name}.txt`));
  for (const file of paths) fs.writeFileSync(file, path.basename(file));
  await open(mcp, '/upload');
  assert.match(await click(mcp, '[type=file]'), /File chooser/);
  await mcp.call('file_upload', { paths });
  await click(mcp, 'button');
  const lines = await textsOf(mcp, 'li');
  assert.deepEqual(lines.map((line) => line.split(',')[0]), ['first.txt: 9 bytes', 'second.txt: 10 bytes', 'note = ']);
});

test('upload: cancels a file chooser', async (mcp) => {
  await open(mcp, '/upload');
  await click(mcp, '[type=file]');
  await mcp.call('file_upload');
  assert.equal(await mcp.evaluate('(element) => element.files.length', '[type=file]'), 0);
});

test('upload: fails without a file chooser', async (mcp) => {
  await open(mcp, '/upload');
  const { isError, text } = await mcp.tryCall('file_upload', { paths: [] });
  assert.equal(isError, true);
  assert.match(text, /file chooser|can only be used/i);
});

test('redirect: follows three redirects', async (mcp) => {
  const text = await open(mcp, '/redirect/3');
  assert.ok(text.includes(`- Page URL: ${site}/redirect/0`));
  const requests = await mcp.call('network_requests', { static: true, filter: '/redirect/' });
  assert.equal(requests.match(/302/g).length, 3);
});

test('redirect: follows a meta refresh and a script', async (mcp) => {
  for (const way of ['meta', 'script']) {
    await open(mcp, '/redirect');
    await click(mcp, await mcp.reference(`link "${way}"`));
    await waitForText(mcp, 'h1', 'Arrived');
  }
});

test('redirect: fails for a loop', async (mcp) => {
  const { isError, text } = await mcp.tryCall('navigate', { url: `${site}/redirect/loop` });
  assert.equal(isError, true);
  assert.match(text, /redirect/i);
});

test('large DOM: counts 5000 rows', async (mcp) => {
  await open(mcp, '/list/1');
  await mcp.runCode(`async (page) => { await page.goto('${site}/large'); return true; }`);
  assert.equal(await mcp.evaluate(`() => document.querySelectorAll('tr').length`), 5000);
});

test('large DOM: takes a snapshot of one row', async (mcp) => {
  await mcp.call('tabs', { action: 'new' });
  await mcp.runCode(`async (page) => { await page.goto('${site}/large'); return true; }`);
  const snapshot = await mcp.call('snapshot', { target: '#row-2500' });
  assert.ok(snapshot.includes('item 2500'));
  assert.ok(!snapshot.includes('item 2501'));
});

test('screenshot: of the viewport', async (mcp) => {
  await open(mcp, '/list/1');
  const { images, isError, text } = await mcp.tryCall('take_screenshot', { type: 'png' });
  assert.equal(isError, false, text);
  assert.equal(Buffer.from(images[0], 'base64').subarray(1, 4).toString(), 'PNG');
});

test('screenshot: after a change of the viewport', async (mcp) => {
  await open(mcp, '/list/1');
  await mcp.call('resize', { width: 640, height: 480 });
  assert.deepEqual(await mcp.evaluate('() => [innerWidth, innerHeight]'), [640, 480]);
  const { images } = await mcp.tryCall('take_screenshot', { type: 'png' });
  const png = Buffer.from(images[0], 'base64');
  assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], [640, 480]);
});

test('slow response: waits for a text', async (mcp) => {
  await open(mcp, '/slow');
  await click(mcp, 'button');
  await mcp.call('wait_for', { text: 'After 400 ms' });
  assert.match(await textOf(mcp, 'output'), /After 400 ms/);
});

test('slow response: lists the request with its details', async (mcp) => {
  await open(mcp, '/slow');
  await click(mcp, 'button');
  await mcp.call('wait_for', { textGone: 'loading' });
  const requests = section(await mcp.call('network_requests', { filter: '/slow/400' }), 'Result');
  assert.match(requests, /GET.*\/slow\/400.*200/);
});

test('dialog: accepts an alert', async (mcp) => {
  await open(mcp, '/dialog');
  assert.match(await click(mcp, '#alert'), /"alert" dialog with message "an alert"/);
  await mcp.call('handle_dialog', { accept: true });
  await waitForText(mcp, 'output', 'alerted');
});

test('dialog: dismisses a question', async (mcp) => {
  await open(mcp, '/dialog');
  await click(mcp, '#confirm');
  await mcp.call('handle_dialog', { accept: false });
  await waitForText(mcp, 'output', 'confirmed: false');
});

test('dialog: answers a prompt', async (mcp) => {
  await open(mcp, '/dialog');
  await click(mcp, '#prompt');
  await mcp.call('handle_dialog', { accept: true, promptText: 'an answer' });
  await waitForText(mcp, 'output', 'prompted: an answer');
});

test('dialog: blocks other tools while it is open', async (mcp) => {
  await open(mcp, '/dialog');
  await click(mcp, '#alert');
  const { isError, text } = await mcp.tryCall('click', { element: 'a button', target: '#confirm' });
  assert.equal(isError, true);
  assert.match(text, /modal state/);
  await mcp.call('handle_dialog', { accept: true });
});

test('console: returns messages and errors of the page', async (mcp) => {
  await open(mcp, '/list/1');
  await mcp.evaluate(`() => { console.warn('a warning'); console.error('an error', 7); return 1; }`);
  const messages = await mcp.call('console_messages', { level: 'warning' });
  assert.match(messages, /a warning/);
  assert.match(messages, /an error 7/);
});

test('form: fills fields and presses keys', async (mcp) => {
  await open(mcp, '/upload');
  await mcp.call('fill_form', { fields: [{ name: 'note', element: 'note', target: '[name=note]', type: 'textbox', value: 'one' }] });
  await click(mcp, '[name=note]');
  await mcp.call('press_key', { key: 'End' });
  await mcp.call('press_key', { key: '2' });
  assert.equal(await mcp.evaluate('(element) => element.value', '[name=note]'), 'one2');
});

test('contexts: two servers do not share cookies', async (mcp) => {
  const other = await McpClient.start(path.join(mcp.folder, 'other'));
  try {
    await open(mcp, '/cookie?owner=first');
    await open(other, '/cookie?owner=second');
    const cookie = (client) => client.evaluate('() => document.cookie');
    assert.deepEqual([await cookie(mcp), await cookie(other)], ['owner=first', 'owner=second']);
  } finally {
    await other.close();
  }
});

async function main() {
  const output = process.env.OUTPUT;
  let server;
  let servers = 0;
  for (const { name, run } of sample(tests)) {
    const group = name.split(':')[0];
    await reportRun(JUDGE, name, async () => {
      if (server?.group !== group) {
        await server?.mcp.close();
        server = undefined;
        server = { group, mcp: await McpClient.start(path.join(output, `mcp-${++servers}`)) };
      }
      try {
        await run(server.mcp);
      } catch (error) {
        // A dialog or tab that a failed test left open would make the next test fail.
        await server.mcp.close();
        server = undefined;
        throw error;
      }
    });
  }
  await server?.mcp.close();
}

main().then(() => process.exit(0));
