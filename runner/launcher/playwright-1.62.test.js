// Contract tests: what playwright-1.62.js expects of Playwright's internals holds in each version that it serves.
// They launch the machine's Firefox.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { after, before, describe, it } = require('node:test');
const { load } = require('./playwright-1.62');

const PAGE = 'data:text/html,<title>start</title>';

/** Listens on a TCP port for clients, which cannot connect to a Unix socket. Returns the port. */
async function forward(socket) {
  const listener = net.createServer((client) => {
    const server = net.connect(socket);
    client.pipe(server).pipe(client);
    for (const [one, other] of [[client, server], [server, client]]) {
      one.on('error', () => {}).on('close', () => other.destroy());
    }
  });
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  listener.unref();
  return listener.address().port;
}

/** Ids of a browser's processes for pages of web sites. */
function siteProcesses(browserPid) {
  const isOne = (pid) => {
    try {
      // The fields of proc_pid_stat(5): pid (comm) state ppid pgrp
      const [, comm, group] = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').match(/\((.*)\) \S+ \d+ (\d+)/);
      return comm.startsWith('Isolated Web') && Number(group) === browserPid;
    } catch {
      return false; // the process has exited
    }
  };
  return fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter(isOne);
}

for (const packageName of ['playwright-core', 'playwright-core-1.64']) {
  const { version } = require(`${packageName}/package.json`);
  describe(`Playwright ${version}`, { concurrency: false, timeout: 300_000 }, () => {
    let server;
    let endpoint;
    let directory;
    let sockets;
    const accepted = []; // connections in the order of their clients
    let onConnected = () => {};
    let admit = () => undefined;

    const { firefox } = require(packageName);
    const connect = (headers) => firefox.connect(endpoint, { headers });
    /** Connects a client that is shown the default context. */
    const connectHolder = async (onClosed = () => {}) => {
      onConnected = (connection) => connection.beforeInitialized(() => connection.showDefaultContext(onClosed));
      try {
        return await connect();
      } finally {
        onConnected = () => {};
      }
    };

    before(async () => {
      directory = fs.mkdtempSync(path.join(os.tmpdir(), 'launcher-test-'));
      sockets = path.join(directory, 'pw.sock');
      server = await load(packageName).launch({
        channel: 'moz-firefox',
        executablePath: path.join(__dirname, 'firefox.sh'),
        env: { ...process.env, CAMOFLEET_FIREFOX: '/usr/bin/firefox-esr' },
        headless: true,
        noDefaultViewport: true,
        profile: path.join(directory, 'profile'),
        socket: sockets,
        wsPath: '/secret',
      });
      server.serve({
        admit: (headers) => admit(headers),
        responseHeaders: () => ['x-test: 1'],
        connected: (connection, headers) => {
          accepted.push(connection);
          onConnected(connection, headers);
        },
      });
      endpoint = `ws://127.0.0.1:${await forward(sockets)}/secret`;
    });

    after(async () => {
      await server.kill();
      fs.rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    });

    it('disconnects a client that does not read when too much waits for it', async () => {
      const client = await connect();
      const page = await client.newPage();
      const [socket] = accepted.slice(-1).map((connection) => connection._socket);
      assert.equal(socket.bufferedAmount, 0);
      Object.defineProperty(socket, 'bufferedAmount', { value: 257 << 20 });
      await assert.rejects(page.evaluate(() => new Promise(() => console.log('more'))), /does not read: more than 256 MiB/);
    });

    it('shows a client only its own contexts', async () => {
      const [one, other] = [await connect(), await connect()];
      assert.deepEqual([one.contexts().length, other.contexts().length], [0, 0]);
      const seen = [];
      other.on('context', () => seen.push('context'));
      const page = await one.newPage();
      assert.deepEqual([one.contexts().length, other.contexts().length], [1, 0]);
      await other.newPage();
      assert.equal(other.contexts().length, 1);
      assert.equal(seen.length, 1, 'the event of its own context');
      await other.close();
      assert.equal(await page.title(), '');
      await one.close();
    });

    it('does not find the objects of another client by their guids', async () => {
      const [one, other] = [await connect(), await connect()];
      const page = await one.newPage();
      const mine = await other.newPage();
      mine._channel._guid = page._guid;
      const forged = mine._connection.sendMessageToServer({ _guid: page._guid, _type: 'Page', _object: mine }, 'bringToFront', {}, {});
      await assert.rejects(forged, /closed/);
      await one.close();
      await other.close();
    });

    it('closes the contexts of a client that closes its connection', async () => {
      const client = await connect();
      await client.newPage();
      const before = server._browser.contexts().length;
      const cleaned = new Promise((resolve) => accepted.at(-1).onClose(resolve));
      const connection = accepted.at(-1);
      await client.close();
      assert.equal(await cleaned, 1005);
      await connection.cleanedUp();
      assert.equal(server._browser.contexts().length, before - 1);
    });

    it('gives each client its own context for reuse, and closes it with the connection', async () => {
      const [one, other] = [await connect(), await connect()];
      const reuse = (client) => client._channel.newContextForReuse({}).then(({ context }) => context._object ?? context);
      const mine = await reuse(one);
      const page = await mine.newPage();
      await reuse(other);
      assert.equal(await page.title(), '', 'the context for reuse of another client was closed');
      assert.equal(await reuse(one), mine);
      const connection = accepted.at(-2);
      await one.close();
      await connection.cleanedUp();
      assert.equal(server._browser.contexts().length, 1);
      await other.close();
    });

    it('keeps traces with the same name apart', async () => {
      const [one, other] = [await connect(), await connect()];
      const contexts = [await one.newContext(), await other.newContext()];
      for (const context of contexts) await context.tracing.start({ name: '../same', snapshots: true });
      for (const [index, context] of contexts.entries()) await (await context.newPage()).setContent(`<h1>page ${index}`);
      const sizes = [];
      for (const [index, context] of contexts.entries()) {
        const file = path.join(directory, `${index}.zip`);
        await context.tracing.stop({ path: file });
        sizes.push(fs.statSync(file).size);
      }
      assert.ok(sizes.every((size) => size > 500), `sizes of the traces: ${sizes}`);
      assert.deepEqual(fs.readdirSync(directory).filter((name) => name.startsWith('same')), []);
      await one.close();
      await other.close();
    });

    it('records videos', async () => {
      const client = await connect();
      const context = await client.newContext({ recordVideo: { dir: directory }, viewport: { width: 320, height: 240 } });
      const page = await context.newPage();
      await page.setContent('<body style="background: green">');
      await page.waitForTimeout(500);
      await context.close();
      const file = path.join(directory, 'saved.webm');
      await page.video().saveAs(file);
      assert.equal(fs.readFileSync(file).readUInt32BE(0), 0x1a45dfa3, 'it begins as a WebM file');
      await client.close();
    });

    it('reports a crash of a page, and keeps other pages', async () => {
      const site = http.createServer((_, response) => response.setHeader('content-type', 'text/html').end('<title>site</title>'));
      await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
      site.unref();
      const { port } = site.address();
      const holder = await connectHolder();
      const [initial] = holder.contexts()[0].pages();
      const other = await (await holder.newContext()).newPage();
      await other.setContent('<title>other</title>');
      const before = siteProcesses(server.pid);
      await initial.goto(`http://127.0.0.1:${port}/`);
      let contentProcess; // a process takes its name a little later than it loads the page
      while (!contentProcess) [contentProcess] = siteProcesses(server.pid).filter((pid) => !before.includes(pid));
      const crashed = new Promise((resolve) => initial.once('crash', resolve));
      const waiting = assert.rejects(initial.evaluate(() => new Promise(() => {})));
      process.kill(contentProcess, 'SIGKILL');
      await crashed;
      await waiting;
      assert.equal(await other.title(), 'other');
      await holder.close();
      await server.defaultContext.undoSettings();
      await server.defaultContext.ping();
      site.close();
    });

    it('does not start a second server', async () => {
      const client = await connect();
      await assert.rejects(client._channel.startServer({ title: 'x' }), /one endpoint/);
      await client.close();
    });

    it('gives the contexts of one connection to another', async () => {
      const lost = await connect();
      await (await lost.newPage()).setContent('<title>kept</title>');
      const contexts = accepted.at(-1).takeContexts();
      assert.equal(contexts.length, 1);
      const cleaned = accepted.at(-1);
      await lost.close();
      await cleaned.cleanedUp();
      onConnected = (connection) => connection.beforeInitialized(() => contexts.forEach((it) => connection.giveContext(it)));
      const next = await connect();
      onConnected = () => {};
      assert.equal(await next.contexts()[0].pages()[0].title(), 'kept');
      await next.contexts()[0].close();
      assert.equal(next.contexts().length, 0);
      await next.close();
    });

    it('closes a connection with a reason that the client shows', async () => {
      const client = await connect();
      const page = await client.newPage();
      const pending = page.evaluate(() => new Promise(() => {}));
      accepted.at(-1).close(1001, 'replaced by a test');
      await assert.rejects(pending, /replaced by a test/);
    });

    it('reports a call as pending until it is answered', async () => {
      const client = await connect();
      const page = await client.newPage();
      assert.equal(server.isBusy(), false);
      const pending = page.evaluate(() => new Promise((resolve) => (globalThis.answer = resolve)));
      await page.title();
      assert.equal(server.isBusy(), true);
      await page.evaluate(() => globalThis.answer());
      await pending;
      const event = page.waitForEvent('close'); // a wait on the client's side has a message without a response
      await page.title();
      assert.equal(server.isBusy(), true);
      await page.close();
      await event;
      await client.newContext();
      assert.equal(server.isBusy(), false);
      await client.close();
    });

    it('answers clients of other protocols in their format', async () => {
      const ask = async (message) => {
        const socket = new WebSocket(endpoint);
        await new Promise((resolve) => socket.addEventListener('open', resolve));
        socket.send(JSON.stringify(message));
        const { data } = await new Promise((resolve) => socket.addEventListener('message', resolve));
        socket.close();
        return JSON.parse(data);
      };
      const cdp = await ask({ id: 1, method: 'Browser.getVersion' });
      assert.match(cdp.error.message, /firefox\.connect/);
      const bidi = await ask({ id: 2, method: 'session.new', params: {} });
      assert.deepEqual([bidi.type, bidi.id, /firefox\.connect/.test(bidi.message)], ['error', 2, true]);
    });

    it('closes a connection that sends something else', async () => {
      for (const message of ['null', '[]', '{"id":1}', '{"id":1,"guid":"","method":2}', 'no JSON']) {
        const socket = new WebSocket(endpoint);
        await new Promise((resolve) => socket.addEventListener('open', resolve));
        const closed = new Promise((resolve) => socket.addEventListener('close', resolve));
        socket.send(message);
        assert.equal((await closed).code, 1007, message);
      }
    });

    it('rejects a handshake with a status and a message', async () => {
      admit = () => ({ status: 409, message: 'held by another' });
      await assert.rejects(connect(), /409[^]*held by another/);
      admit = () => undefined;
    });

    it('shows the default context to its holder, with the start page', async () => {
      await server.defaultContext.open(PAGE, 'load');
      const holder = await connectHolder();
      assert.equal(holder.contexts().length, 1);
      assert.equal(await holder.contexts()[0].pages()[0].title(), 'start');
      const other = await connect();
      assert.equal(other.contexts().length, 0);
      await other.close();
      await holder.close();
    });

    it('replaces the last page of the default context, and gives the context back when it is closed', async () => {
      let closed = 0;
      const holder = await connectHolder(() => closed++);
      const [context] = holder.contexts();
      await context.pages()[0].close();
      assert.equal(context.pages().length, 1);
      await context.close();
      assert.deepEqual([closed, holder.contexts().length], [1, 0]);
      await holder.close();
      await server.defaultContext.ping();
    });

    it('does not install the recorder in the initial page', async () => {
      const holder = await connectHolder();
      const [initial] = holder.contexts()[0].pages();
      await assert.rejects(initial.pickLocator(), /use a context of your own/);
      const picking = (await holder.newPage()).pickLocator();
      await Promise.all([assert.rejects(picking), holder.close()]);
    });

    it('undoes the settings of a holder, and keeps document, cookies and storage', async () => {
      await server.defaultContext.open(PAGE, 'load');
      const holder = await connectHolder();
      const [context] = holder.contexts();
      const [page] = context.pages();
      await page.evaluate(() => (document.title = 'logged in'));
      await context.addCookies([{ name: 'id', value: '1', url: 'http://site.test' }]);
      const size = await page.evaluate(() => [innerWidth, innerHeight]);
      await context.clock.install({ time: new Date('2020-01-01') });
      await page.setViewportSize({ width: 400, height: 300 });
      await page.emulateMedia({ media: 'print' });
      await page.setExtraHTTPHeaders({ 'x-page': 'left' });
      await context.setExtraHTTPHeaders({ 'x-context': 'left' });
      await context.setGeolocation({ latitude: 1, longitude: 1 });
      await context.grantPermissions(['geolocation']);
      await context.setOffline(true);
      await context.addInitScript(() => (globalThis.left = true));
      await context.exposeFunction('exposed', () => 1);
      await context.route('**', (route) => route.fulfill({ body: 'routed' }));
      await context.newPage();
      await page.keyboard.down('Shift');
      await page.mouse.down();
      await page.screencast?.showOverlay('<b>overlay</b>');
      await page.locator('body').highlight();
      await context.debugger?.requestPause();
      const connection = accepted.at(-1);
      await holder.close();
      await connection.cleanedUp();
      await server.defaultContext.undoSettings();

      const next = await connectHolder();
      const [kept] = next.contexts();
      assert.equal(kept.pages().length, 1);
      const [initial] = kept.pages();
      assert.equal(await initial.title(), 'logged in');
      assert.equal((await kept.cookies('http://site.test')).length, 1);
      assert.deepEqual(await initial.evaluate(() => [innerWidth, innerHeight]), size);
      assert.equal(await initial.evaluate(() => matchMedia('print').matches), false);
      assert.equal(await initial.evaluate(() => new Date().getFullYear() > 2020), true, 'the clock of the kept document');
      assert.equal(await initial.locator('x-pw-glass').count(), 0);
      // Scripts run in documents, so what they left is gone from the next one.
      let headers;
      await initial.route('http://site.test/', (route) => {
        headers = route.request().headers();
        return route.fulfill({ contentType: 'text/html', body: '<title>new</title>' });
      });
      await initial.goto('http://site.test/');
      assert.deepEqual([headers['x-page'], headers['x-context']], [undefined, undefined]);
      const left = () => [globalThis.left, typeof globalThis.exposed, new Date().getFullYear() > 2020];
      assert.deepEqual(await initial.evaluate(left), [undefined, 'undefined', true]);
      await initial.setContent('<input>');
      await initial.click('input');
      await initial.keyboard.type('abc');
      assert.equal(await initial.inputValue('input'), 'abc');
      await next.close();
      await server.defaultContext.undoSettings();
    });

    it('keeps cookies of the default context apart from those of clients', async () => {
      const [holder, other] = [await connectHolder(), await connect()];
      const [initial] = holder.contexts();
      const context = await other.newContext();
      const cookie = (name) => [{ name, value: '1', url: 'http://site.test' }];
      await context.addCookies(cookie('theirs'));
      await initial.clearCookies();
      await initial.addCookies(cookie('mine'));
      assert.deepEqual((await initial.cookies()).map(({ name }) => name), ['mine']);
      await initial.clearCookies();
      assert.equal((await context.cookies()).length, 1);
      await other.close();
      await holder.close();
    });

    it('closes popups of a context that is closed at the same moment', async () => {
      const client = await connect();
      const seen = [];
      const onPage = (page) => seen.push(page);
      server.defaultContext.context.on('page', onPage);
      // The windows are opened beforehand, because Firefox sometimes fails to open two at the same moment.
      const pages = [];
      for (let count = 0; count < 4; count++) pages.push(await client.newPage());
      for (const page of pages) {
        const popup = page.waitForEvent('popup');
        await page.evaluate(() => void setInterval(() => window.open('about:blank', '_blank', 'width=300,height=200'), 60));
        await popup;
        page.context().close().catch(() => {}); // can hang on a plain server, too
        await new Promise((resolve) => setTimeout(resolve, 500)); // for popups, of which no event tells
      }
      await client.close();
      assert.deepEqual(seen, []);
      server.defaultContext.context.off('page', onPage);
    });

    it('clears the default context', async () => {
      const holder = await connectHolder();
      const [context] = holder.contexts();
      await context.addCookies([{ name: 'id', value: '1', url: 'http://site.test' }]);
      await context.route('http://site.test/', (route) => route.fulfill({ contentType: 'text/html', body: 'x' }));
      await context.pages()[0].goto('http://site.test/');
      await context.pages()[0].evaluate(() => localStorage.setItem('key', 'value'));
      await holder.close();
      await server.defaultContext.clear();
      const next = await connectHolder();
      const [cleared] = next.contexts();
      assert.deepEqual(await cleared.storageState(), { cookies: [], origins: [] });
      assert.equal(cleared.pages()[0].url(), 'about:blank');
      await next.close();
    });

    it('reports a lost connection to the browser', async () => {
      const lost = new Promise((resolve) => server.onLost(resolve));
      const client = await connect();
      const page = await client.newPage();
      await assert.rejects(page.evaluate(() => ['a', 'b', 'c'].map((letter) => letter.repeat(100 << 20))));
      await lost;
    });
  });
}
