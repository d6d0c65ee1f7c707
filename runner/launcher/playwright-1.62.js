// What the launcher uses of Playwright's internals, in Playwright 1.62 to 1.64. No other file uses any. The contract
// tests (playwright-1.62.test.js) run against the first and the last of these versions.
//
// Two options of launchServer are undocumented: `_userDataDir` launches the browser with a profile, and thus with a
// default context, and a path as `port` listens on a Unix socket, because every page could reach a TCP port.
//
// Playwright itself isolates the clients of a launched server: a client is shown only the contexts that it created,
// and they are closed when it disconnects (`isolateContexts` of BrowserDispatcher). `Connection` adds what a client may
// hold beyond that, and closes what Playwright's isolation leaves open: contexts for reuse and names of traces, which
// all clients of a browser share, and a second server (`browser.bind`), which would listen without a secret path.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

/** Largest message from a client, in bytes. Playwright's clients accept as much; its server's default is 100 MiB. */
const MAX_PAYLOAD = 256 << 20;
/** Most bytes that wait for a client that does not read, in addition to one message. */
const MAX_UNREAD = MAX_PAYLOAD;
/** Debian's ffmpeg, in the runner's image. */
const FFMPEG = '/usr/bin/ffmpeg';
/** Firefox shows this page in place of a page whose content process has crashed. */
const CRASH_PAGE = 'about:tabcrashed';
/** Makes the clock that a client has installed follow the real time. */
const FOLLOW_REAL_TIME = `(() => {
  if (!globalThis.__pwClock) return;
  const { controller, builtins } = globalThis.__pwClock;
  controller.setSystemTime(builtins.Date.now());
  controller.resume();
})()`;
/** Calls that install Playwright's recorder in all pages of a context, from which nothing removes it. */
const RECORDER_METHODS = new Set(['enableRecorder', 'pickLocator']);
/** Calls with the name of a trace. */
const TRACE_METHODS = new Set(['tracingStart', 'tracingStartChunk']);

/**
 * Loads the Playwright package with this name. Returns `launch(options, firefoxOptions)`, which resolves to a `Server`.
 */
function load(packageName = 'playwright-core') {
  const { firefox } = require(packageName);
  const { registry, remote, server: internals } = require(`${packageName}/lib/coreBundle`);
  // Playwright records videos with a build of ffmpeg that it downloads. Debian's has the same encoder.
  if (fs.existsSync(FFMPEG)) registry.registry.findExecutable('ffmpeg').executablePathOrDie = () => FFMPEG;

  /** Calls launchServer, and also returns the server object, which launchServer does not expose. */
  const launchServer = async (options) => {
    const prototype = remote.PlaywrightServer.prototype;
    const { listen } = prototype;
    let playwrightServer;
    prototype.listen = function (...args) {
      playwrightServer = this;
      return listen.apply(this, args);
    };
    try {
      return { browserServer: await firefox.launchServer(options), playwrightServer };
    } finally {
      prototype.listen = listen;
    }
  };

  return {
    /** `options` of launchServer, without those that this module sets. `socket`: path of the server's Unix socket. */
    async launch({ profile, socket, ...options }) {
      const launched = await launchServer({ ...options, port: socket, _userDataDir: profile });
      return new Server(launched, internals);
    },
  };
}

/** A Playwright server and its browser. */
class Server {
  constructor({ browserServer, playwrightServer }, internals) {
    this._browserServer = browserServer;
    this._playwrightServer = playwrightServer;
    this.progress = internals.nullProgress;
    this._browser = playwrightServer._options.preLaunchedBrowser;
    this._connections = new Set();
    this._defaultContext = new DefaultContext(this._browser, internals);
    reportCrashes(this._browser);
    if (isBidi(this._browser)) closeOrphanedPopups(this._browser);
    this._reuse = Promise.resolve();
    this.version = this._browser.version();
    this.pid = browserServer.process().pid;
    // The `ws` server reads its options for each connection, so the change applies to all clients.
    playwrightServer._wsServer._wsServer.options.maxPayload = MAX_PAYLOAD;
  }

  get defaultContext() {
    return this._defaultContext;
  }

  /**
   * Serves clients. `admit(headers)` returns undefined, or the `{ status, message }` with which a handshake is rejected.
   * `responseHeaders(headers)` returns lines for the head of the 101. `connected(connection, headers)` is called for
   * each client, before it sends anything.
   */
  serve({ admit, responseHeaders, connected }) {
    const wsServer = this._playwrightServer._wsServer;
    wsServer._wsServer.on('headers', (lines, request) => lines.push(...responseHeaders(request.headers)));
    const delegate = wsServer._delegate;
    const { onUpgrade, onConnection } = delegate;
    delegate.onUpgrade = (request, socket) => {
      const rejected = onUpgrade.call(delegate, request, socket);
      if (rejected) return rejected;
      const refusal = admit(request.headers);
      return refusal && { error: rejection(request.httpVersion, refusal) };
    };
    delegate.onConnection = (request, url, socket, id) => {
      const playwrightConnection = onConnection.call(delegate, request, url, socket, id);
      const connection = new Connection(this, playwrightConnection, socket, id);
      this._connections.add(connection);
      connection.onClose(() => this._connections.delete(connection));
      connected(connection, request.headers);
      return playwrightConnection;
    };
  }

  /** Whether a client waits for a response or an event, or a download grows. */
  isBusy() {
    const grown = this._downloadsHaveGrown();
    return grown || [...this._connections].some((connection) => connection.hasPendingCalls());
  }

  /** Whether the files of unfinished downloads have grown since the previous call. */
  _downloadsHaveGrown() {
    const before = this._downloaded ?? 0;
    this._downloaded = this._browser._downloads.size === 0 ? 0 : sizeOf(this._browser.options.downloadsPath);
    return this._downloaded > before;
  }

  /** Calls back once, when the browser has exited for any reason, with its exit code or signal, and its last output. */
  onExit(callback) {
    this._browserServer.on('close', (code, signal) => {
      callback({ code, signal, log: this._browser.options.browserLogsCollector.recentLogs() });
    });
  }

  /** Calls back once, when Playwright has lost its connection to the browser. The browser may still run. */
  onLost(callback) {
    this._browser.once('disconnected', callback);
  }

  /** Closes a context that was taken from a client. */
  closeContext(context, reason) {
    context.close(this.progress, { reason }).catch(() => {}); // fails only while the browser is closing
  }

  /** Closes all client connections. Resolves once they are closed. */
  disconnectClients() {
    return this._playwrightServer.close();
  }

  /** Kills the browser. */
  kill() {
    return this._browserServer.kill();
  }

  /** Quits the browser, so that it writes its profile to disk. */
  quit() {
    return this._browserServer.close();
  }

  /** Runs a call on the context for reuse of one client. Playwright has one for each browser. */
  _withReusedContext(client, call) {
    const result = this._reuse.then(async () => {
      this._browser._contextForReuse = client.contextForReuse;
      try {
        return await call();
      } finally {
        client.contextForReuse = this._browser._contextForReuse;
        this._browser._contextForReuse = undefined;
      }
    });
    this._reuse = result.catch(() => {});
    return result;
  }
}

/** A client's connection. */
class Connection {
  constructor(server, playwrightConnection, socket, id) {
    this._server = server;
    this._connection = playwrightConnection;
    this._socket = socket;
    this._id = id;
    this._pending = new Set(); // ids of calls without a response
    this._waits = new Set(); // ids of waits for an event, such as page.waitForEvent()
    this._prepare = () => {};
    this._wrapRoot();
    this._wrapMessages();
  }

  /** Runs before the client sees its browser. */
  beforeInitialized(prepare) {
    this._prepare = prepare;
  }

  /** Calls back when the connection has closed, with its close code (RFC 6455 section 7.1.5). */
  onClose(callback) {
    this._socket.once('close', callback);
  }

  /** Resolves once Playwright has closed what belongs to the closed connection. */
  cleanedUp() {
    return this._connection._onDisconnect();
  }

  /** Closes the connection with a code and a reason that the client's library shows. */
  close(code, reason) {
    this._connection.close({ code, reason });
  }

  /** Whether the client waits for the response to a call, or for an event. */
  hasPendingCalls() {
    return this._pending.size > 0 || this._waits.size > 0;
  }

  /** Takes the client's contexts away from it, so that they outlive its connection. */
  takeContexts() {
    const contexts = [...(this._browserDispatcher?._isolatedContexts ?? [])];
    this._browserDispatcher?._isolatedContexts.clear();
    return contexts;
  }

  /** Gives a context to the client, as if it had created it. */
  giveContext(context) {
    if (context.isClosingOrClosed()) return;
    releaseHeld(context, this._server.progress).catch(() => {}); // not awaited, because a page can hang
    const contexts = this._browserDispatcher._isolatedContexts;
    contexts.add(context);
    context.once('close', () => contexts.delete(context));
    this._show(context);
  }

  /** Shows the default context to the client, as the first of its contexts. `onClosed`: the client has closed it. */
  showDefaultContext(onClosed) {
    this._onDefaultContextClosed = onClosed;
    this._show(this._server.defaultContext.context);
  }

  _show(context) {
    const Dispatcher = this._server.defaultContext.dispatcherClass;
    const dispatcher = Dispatcher.from(this._browserDispatcher, context);
    this._browserDispatcher._dispatchEvent('context', { context: dispatcher });
  }

  _wrapRoot() {
    const root = this._connection._root;
    const { createPlaywright } = root;
    root.createPlaywright = async (scope, params) => {
      const playwright = await createPlaywright(scope, params);
      this._browserDispatcher = playwright._browserDispatcher;
      this._wrapBrowser(this._browserDispatcher);
      await this._prepare();
      return playwright;
    };
  }

  _wrapBrowser(dispatcher) {
    const { newContextForReuse, disconnectFromReusedContext } = dispatcher;
    dispatcher.newContextForReuse = (...args) =>
      this._server._withReusedContext(this, async () => {
        const result = await newContextForReuse.apply(dispatcher, args);
        dispatcher._isolatedContexts.add(result.context._object);
        return result;
      });
    dispatcher.disconnectFromReusedContext = (...args) =>
      this._server._withReusedContext(this, () => disconnectFromReusedContext.apply(dispatcher, args));
    dispatcher.startServer = async () => {
      throw new Error('a session has one endpoint: browser.bind() is not available');
    };
  }

  _wrapMessages() {
    const dispatcherConnection = this._connection._dispatcherConnection;
    const { dispatch, onmessage } = dispatcherConnection;
    const defaultContext = this._server.defaultContext;
    dispatcherConnection.dispatch = async (message) => {
      if (typeof message?.method !== 'string') {
        this.close(1007, 'Malformed message'); // as Playwright closes a connection for invalid JSON
        return;
      }
      if (message.guid === undefined) {
        this._socket.send(JSON.stringify(responseToOtherProtocol(message)));
        return;
      }
      if (message.method === '__waitInfo__') this._noteWait(message.params ?? {});
      // `__waitInfo__` and the like have ids, but no responses.
      else if (!message.method.startsWith('__')) this._pending.add(message.id);
      if (message.method === 'close' && this._onDefaultContextClosed) {
        if (message.guid === defaultContext.context.guid) {
          const dispatcher = dispatcherConnection.existingDispatcher(defaultContext.context);
          dispatcher._dispatchEvent('close');
          dispatcher._dispose();
          const onClosed = this._onDefaultContextClosed;
          this._onDefaultContextClosed = undefined;
          onClosed();
          dispatcherConnection.onmessage({ id: message.id, result: {} });
          return;
        }
        await defaultContext.replaceLastPage(message.guid);
      }
      if (RECORDER_METHODS.has(message.method) && this._isInDefaultContext(message.guid)) {
        const error = { name: 'Error', message: 'not available in the initial page: use a context of your own' };
        dispatcherConnection.onmessage({ id: message.id, error: { error } });
        return;
      }
      if (TRACE_METHODS.has(message.method) && typeof message.params?.name === 'string') {
        // Names of traces are file names in a directory that all clients share.
        message.params.name = `${this._id}-${message.params.name.replace(/[^\w.-]/g, '_')}`;
      }
      return dispatch.call(dispatcherConnection, message);
    };
    dispatcherConnection.onmessage = (message) => {
      this._pending.delete(message.id);
      if (this._socket.bufferedAmount > MAX_UNREAD) {
        this.close(1008, `the client does not read: more than ${MAX_UNREAD >> 20} MiB wait for it`);
      }
      return onmessage(message);
    };
  }

  _isInDefaultContext(guid) {
    const object = this._connection._dispatcherConnection._dispatcherByGuid.get(guid)?._object;
    const { context } = this._server.defaultContext;
    return object === context || object?.browserContext === context;
  }

  _noteWait({ waitId, phase }) {
    if (phase === 'before') this._waits.add(waitId);
    if (phase === 'after') this._waits.delete(waitId);
  }
}

/**
 * The default context, which belongs to no client and always has a page. `clear` replaces it with a new context, because
 * Playwright clears neither caches nor the storage of frames.
 */
class DefaultContext {
  constructor(browser, internals) {
    this._browser = browser;
    this._progress = internals.nullProgress;
    // Without a user context, Firefox returns and deletes the cookies of all of them.
    if (isBidi(browser)) browser._defaultContext._browserContextId = 'default';
    this._options = structuredClone(browser._defaultContext._options);
    this._engines = new Map(browser._defaultContext.selectors()._engines);
    this.dispatcherClass = contextDispatcherClass(browser, internals);
    this._use(browser._defaultContext);
  }

  _use(context) {
    this.context = context;
    context.pages().forEach((page) => this._keepOnePage(page));
    context.on('page', (page) => this._keepOnePage(page));
  }

  /** Opens a URL in the initial page. Resolves at the event `waitUntil`. */
  async open(url, waitUntil) {
    const page = await this._initialPage();
    await page.mainFrame().goto(this._progress, url, { waitUntil });
  }

  /** Evaluates an expression in the page, which succeeds only if both the parent and the content process respond. */
  async ping() {
    const page = await this._initialPage();
    await page.mainFrame().evaluateExpression(this._progress, '1 + 1', { world: 'utility' });
  }

  /** Opens an empty page first, if this is the guid of the only page. */
  async replaceLastPage(guid) {
    const [page, ...others] = this.context.pages();
    if (others.length === 0 && page?.guid === guid) await this._openPage();
  }

  /**
   * Undoes the settings that a client has made, and closes the pages that it has opened, but keeps the initial page's
   * document, cookies, storage and HTTP logins. Playwright itself has undone what belongs to the client's connection:
   * routes, init scripts, exposed functions, and handlers.
   */
  async undoSettings() {
    const { context, _progress: progress, _options: options } = this;
    const [, ...others] = context.pages();
    for (const page of others) await page.close(progress).catch(() => {});
    await this.replaceCrashedPages();
    await context.tracing.resetForReuse(progress);
    await context.clock.uninstall(progress);
    // The document keeps the clock, which tells the right time again.
    await context.clock._evaluateInFrames(FOLLOW_REAL_TIME);
    await context.credentials.dispose(progress);
    await context.clearPermissions();
    await context.setExtraHTTPHeaders(progress, options.extraHTTPHeaders);
    await context.setOffline(progress, options.offline);
    await context.setHTTPCredentials(progress, options.httpCredentials);
    await context.setGeolocation(options.geolocation);
    context.selectors()._engines = new Map(this._engines);
    context.selectors().setTestIdAttributeName(options.testIdAttributeName ?? 'data-testid');
    await releaseHeld(context, progress);
    await this._undoPageSettings(await this._initialPage());
  }

  /** Page.resetForReuse of Playwright, without its navigation to about:blank. */
  async _undoPageSettings(page) {
    page.screencast.hideActions();
    for (const id of [...page.overlay._overlays.keys()]) await page.overlay.remove(id);
    await (page.highlightController?.hideHighlights() ?? page.hideHighlight()); // 1.64 or 1.62
    page._emulatedSize = undefined;
    page._emulatedMedia = {};
    page._extraHTTPHeaders = undefined;
    await page.delegate.updateEmulateMedia();
    await page.delegate.updateExtraHTTPHeaders();
    if (!isBidi(this._browser)) return page.delegate.updateEmulatedViewportSize();
    // Over BiDi, Playwright sets sizes but does not reset them.
    const session = page.delegate._session;
    const context = session.sessionId;
    await session.send('browsingContext.setViewport', { context, viewport: null, devicePixelRatio: null });
    await session.send('emulation.setScreenOrientationOverride', { contexts: [context], screenOrientation: null });
    await session.send('emulation.setScreenSettingsOverride', { contexts: [context], screenArea: null });
  }

  /** Replaces pages that have crashed, which cannot be used again. */
  async replaceCrashedPages() {
    const pages = this.context.pages();
    const crashed = pages.filter((page) => page._lifecycle === 'crashed');
    if (crashed.length === pages.length) await this._openPage();
    for (const page of crashed) await page.close(this._progress).catch(() => {});
  }

  /** Replaces the context with a new one, which has an empty page, and no cookies and storage. */
  async clear() {
    const previous = this.context;
    this._use(await this._browser.newContext(this._progress, { ...structuredClone(this._options), noDefaultViewport: true }));
    await this._openPage();
    if (previous !== this._browser._defaultContext) {
      await previous.close(this._progress, { reason: 'replaced by an empty context' });
      return;
    }
    // It cannot be closed, and a viewer could open a window in it.
    for (const page of previous.pages()) await page.close(this._progress).catch(() => {});
    await previous.doClearCookies();
  }

  async _initialPage() {
    return this.context.pages()[0] ?? (await this._openPage());
  }

  _openPage() {
    this._opening ??= this.context.newPage(this._progress).finally(() => (this._opening = undefined));
    return this._opening;
  }

  /** Pages are also closed by `window.close()` and by viewers. */
  _keepOnePage(page) {
    page.once('close', () => {
      const last = page.browserContext === this.context && this.context.pages().every((other) => other === page);
      if (last) this._openPage().catch(() => {}); // fails if the page was closed because the browser is closing
    });
  }
}

/** Whether Playwright drives the browser over WebDriver BiDi, as stock Firefox. */
function isBidi(browser) {
  return browser.options.channel === 'moz-firefox';
}

/** Releases what a client holds in a context that outlives its connection: keys, mouse buttons, and the debugger. */
async function releaseHeld(context, progress) {
  const debugger_ = context.debugger();
  [debugger_._enabled, debugger_._pauseAt] = [false, {}];
  debugger_.resume();
  for (const { keyboard, mouse } of context.pages()) {
    for (const key of [...keyboard._pressedKeys]) await keyboard.up(progress, key);
    for (const button of [...mouse._buttons]) await mouse.up(progress, { button });
  }
}

/**
 * Closes popups of contexts that were closed at the same moment. Playwright takes a page of an unknown user context for
 * one of the default context.
 */
function closeOrphanedPopups(browser) {
  const session = browser._browserSession;
  const listener = browser._eventListeners.find(({ eventName }) => eventName === 'browsingContext.contextCreated');
  const isKnown = ({ parent, userContext }) => parent || userContext === 'default' || browser._contexts.has(userContext);
  session.off(listener.eventName, listener.handler);
  session.on(listener.eventName, (event) => {
    if (isKnown(event)) listener.handler(event);
    else session.sendMayFail('browsingContext.close', { context: event.context });
  });
}

/** Reports crashes of pages. Over BiDi, Playwright takes one for a navigation to `CRASH_PAGE`. */
function reportCrashes(browser) {
  const watchPage = (page) => {
    page.mainFrame().on('internalnavigation', ({ url }) => url?.startsWith(CRASH_PAGE) && page._didCrash());
  };
  const watchContext = (context) => {
    context.pages().forEach(watchPage);
    context.on('page', watchPage);
  };
  watchContext(browser._defaultContext);
  browser.on('context', watchContext);
}

/**
 * Returns Playwright's class BrowserContextDispatcher, which is not exported, from a connection of our own that sees
 * the default context.
 */
function contextDispatcherClass(browser, { DispatcherConnection, RootDispatcher, PlaywrightDispatcher }) {
  const root = new RootDispatcher(new DispatcherConnection());
  const options = { preLaunchedBrowser: browser, sharedBrowser: true, denyLaunch: true };
  new PlaywrightDispatcher(root, browser.attribution.playwright, options);
  const dispatcher = root.connection.existingDispatcher(browser._defaultContext);
  root._dispose();
  return dispatcher.constructor;
}

/**
 * Returns the response to a message of another protocol, in that protocol's format, so that its library shows it. Methods
 * of the Chrome DevTools Protocol begin with a capital letter, those of WebDriver BiDi with a small one.
 */
function responseToOtherProtocol({ id, method }) {
  const message = "this is a Playwright server: connect with Playwright's firefox.connect()";
  if (/^[A-Z]/.test(method)) return { id, error: { code: -32601, message } };
  return { type: 'error', id, error: 'unknown command', message };
}

function rejection(httpVersion, { status, message }) {
  const [reason, body] = [http.STATUS_CODES[status], `${message}\n`];
  return `HTTP/${httpVersion} ${status} ${reason}\r\ncontent-type: text/plain\r\n\r\n${body}`;
}

/** Total size of the files in a directory, in bytes. */
function sizeOf(directory) {
  const size = (name) => fs.statSync(path.join(directory, name), { throwIfNoEntry: false })?.size ?? 0;
  return fs.readdirSync(directory).reduce((sum, name) => sum + size(name), 0);
}

module.exports = { load };
