// Whose contexts live how long.
//
// The server runs in Playwright's shared mode: clients see all contexts, and none is closed when a client leaves. Here that
// is made what a client of Playwright expects: what it made goes when it goes. A client that closed its connection properly
// (`browser.close()`) loses its contexts at once. One whose connection was lost (WebSocket code 1006, RFC 6455 section 7.1.5)
// has `graceMs` to come back. A session has one tenant, so whoever connects next takes over what the lost client left.
//
// The browser's own context is nobody's: it stays, and it always has a page, since a browser whose last page is closed ends.
'use strict';

const { server: { nullProgress } } = require('playwright-core/lib/coreBundle');

const ABNORMAL_CLOSURE = 1006;

function manageContexts(server, graceMs) {
  const browser = server._options.preLaunchedBrowser;
  const defaultContext = browser._defaultContext;
  const orphans = new Map(); // guid of a context -> timer that will close it
  const clients = new Map(); // number of an open connection -> guids of the contexts that are its client's, youngest last
  let connections = 0;

  const closeContext = (guid) => {
    orphans.delete(guid);
    const context = browser.contexts().find((context) => context.guid === guid);
    // A context that cannot be closed is that of a browser which is ending.
    context?.close(nullProgress, { reason: 'the client left' }).catch(() => {});
  };

  let pendingPage;
  const openPage = () => (pendingPage ??= defaultContext.newPage(nullProgress).finally(() => (pendingPage = undefined)));
  const initialPage = async () => defaultContext.pages()[0] ?? (await openPage());

  /** Gives what lost clients left to the one that connects. */
  const adoptOrphans = () => {
    const guids = [...orphans.keys()];
    for (const timer of orphans.values()) clearTimeout(timer);
    orphans.clear();
    return guids;
  };

  const disconnect = (number, guids, code) => {
    clients.delete(number);
    const [newest, newestGuids] = [...clients].at(-1) ?? [];
    for (const guid of guids) {
      // That a connection was lost may be noticed long after its client came back on another.
      if (code === ABNORMAL_CLOSURE && newest > number) newestGuids.add(guid);
      else if (code === ABNORMAL_CLOSURE && graceMs > 0) orphans.set(guid, setTimeout(closeContext, graceMs, guid));
      else closeContext(guid);
    }
  };

  /** A client's `close` of the browser's own context empties it instead. */
  const resetDefaultContext = async () => {
    const pages = defaultContext.pages();
    await openPage();
    for (const page of pages) await page.close(nullProgress).catch(() => {});
  };

  // A page can also go without a client's asking: by `window.close()`, or by the hand of who watches.
  const keepOnePage = (page) =>
    page.once('close', () => {
      const last = defaultContext.pages().every((other) => other === page);
      if (last) openPage().catch(() => {}); // fails when it goes because the browser does
    });
  defaultContext.pages().forEach(keepOnePage);
  defaultContext.on('page', keepOnePage);

  const delegate = server._wsServer._delegate;
  const { onConnection } = delegate;
  delegate.onConnection = (request, url, socket, id) => {
    const number = ++connections;
    const owned = new Set(adoptOrphans());
    clients.set(number, owned);
    const pendingNewContexts = new Set(); // ids of this client's `newContext` calls that are not answered yet
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
