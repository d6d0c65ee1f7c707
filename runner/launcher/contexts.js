// Manages the lifetime of browser contexts.
//
// The server runs in Playwright's shared mode, in which clients see all contexts and none is closed when a client
// disconnects. Playwright clients expect their contexts to be closed with their connection, so this module closes
// them: at once when the client closed the connection itself (`browser.close()`), and after `graceMs` when the
// connection was lost (WebSocket code 1006, RFC 6455 section 7.1.5). A session has one tenant, so the next client to
// connect takes over the contexts of a lost one.
//
// The default context belongs to no client. It stays open and always has a page, because the browser exits with its
// last page.
'use strict';

const { server: { nullProgress } } = require('playwright-core/lib/coreBundle');

const ABNORMAL_CLOSURE = 1006;

function manageContexts(server, graceMs) {
  const browser = server._options.preLaunchedBrowser;
  const defaultContext = browser._defaultContext;
  const lostContexts = new Map(); // guid of a context -> timer that closes it
  // Number of an open connection -> guids of its client's contexts. The newest connection is last.
  const clients = new Map();
  let connections = 0;

  const closeContext = (guid) => {
    lostContexts.delete(guid);
    const context = browser.contexts().find((context) => context.guid === guid);
    // Closing fails only while the browser itself is closing.
    context?.close(nullProgress, { reason: 'the client disconnected' }).catch(() => {});
  };

  let pendingPage;
  const openPage = () => (pendingPage ??= defaultContext.newPage(nullProgress).finally(() => (pendingPage = undefined)));
  const initialPage = async () => defaultContext.pages()[0] ?? (await openPage());

  /** Returns the contexts of lost clients and cancels their timers. */
  const adoptLostContexts = () => {
    const guids = [...lostContexts.keys()];
    for (const timer of lostContexts.values()) clearTimeout(timer);
    lostContexts.clear();
    return guids;
  };

  const disconnect = (number, guids, code) => {
    clients.delete(number);
    const [newest, newestGuids] = [...clients].at(-1) ?? [];
    for (const guid of guids) {
      // The loss of a connection may be detected long after its client has reconnected.
      if (code === ABNORMAL_CLOSURE && newest > number) newestGuids.add(guid);
      else if (code === ABNORMAL_CLOSURE && graceMs > 0) lostContexts.set(guid, setTimeout(closeContext, graceMs, guid));
      else closeContext(guid);
    }
  };

  /** Replaces all pages of the default context with an empty one. A client's `close` of the context does this instead. */
  const resetDefaultContext = async () => {
    const pages = defaultContext.pages();
    await openPage();
    for (const page of pages) await page.close(nullProgress).catch(() => {});
  };

  // Pages are also closed by `window.close()` and by live-view clients.
  const keepOnePage = (page) =>
    page.once('close', () => {
      const last = defaultContext.pages().every((other) => other === page);
      if (last) openPage().catch(() => {}); // fails if the page was closed because the browser is closing
    });
  defaultContext.pages().forEach(keepOnePage);
  defaultContext.on('page', keepOnePage);

  const delegate = server._wsServer._delegate;
  const { onConnection } = delegate;
  delegate.onConnection = (request, url, socket, id) => {
    const number = ++connections;
    const owned = new Set(adoptLostContexts());
    clients.set(number, owned);
    const pendingNewContexts = new Set(); // ids of this client's `newContext` calls without a response
    const connection = onConnection.call(delegate, request, url, socket, id);
    const dispatcher = connection._dispatcherConnection;
    const { dispatch, onmessage } = dispatcher;

    dispatcher.dispatch = async (message) => {
      if (message.method === 'newContext') pendingNewContexts.add(message.id);
      if (message.method === 'close') {
        if (message.guid === defaultContext.guid) {
          await resetDefaultContext();
          onmessage({ guid: message.guid, method: 'close', params: {} });
          onmessage({ id: message.id, result: {} });
          return;
        }
        const [page, ...others] = defaultContext.pages();
        if (others.length === 0 && page?.guid === message.guid) await openPage();
      }
      return dispatch.call(dispatcher, message);
    };
    dispatcher.onmessage = (message) => {
      if (pendingNewContexts.delete(message.id) && message.result) owned.add(message.result.context.guid);
      return onmessage(message);
    };

    socket.once('close', (code) => disconnect(number, owned, code));
    return connection;
  };

  return { initialPage };
}

module.exports = { manageContexts };
