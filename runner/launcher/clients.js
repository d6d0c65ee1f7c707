// Decides what each client of a session holds beyond the contexts that it creates:
//
// - The initial page, which has one holder at a time. A client asks for it (`page: 'open'`, or `'new'` for an empty
//   page with cleared storage). The first client of a session whose start URL was opened gets it without asking, unless
//   it says `'none'`. When the holder leaves, its settings are undone, but the document, cookies and storage stay.
// - The contexts of a lost connection, which are kept for a while if the client has a name, and given back to the next
//   connection with that name. A lost connection without a name loses its contexts, as on a plain Playwright server.
'use strict';

/** Close code of a connection that ended without a Close frame (RFC 6455 section 7.1.5). */
const ABNORMAL_CLOSURE = 1006;
/** Close code of a connection that another one replaces: private, after HTTP's 409. */
const REPLACED = 4409;
/** Most lost clients whose contexts are kept. One more takes the place of the one that was lost first. */
const MAX_LOST_CLIENTS = 16;
/** Time limit for undoing a holder's settings, which a page that hangs can delay. */
const UNDO_TIMEOUT_MS = 5_000;

class Client {
  constructor(name) {
    this.name = name; // undefined if the client has none
    this.connection = undefined; // undefined while the client is lost
    this.cleanedUp = Promise.resolve(); // resolves once Playwright has cleaned up after its previous connection
    this.contexts = []; // contexts that its next connection gets
    this.expiry = undefined; // timer that forgets the lost client
  }
}

class Clients {
  /** `server`: see playwright-1.62.js. */
  constructor(server) {
    this._server = server;
    this._named = new Map(); // name -> Client, in the order of their last loss or connection
    this._graceMs = 0;
    this._startPage = 'none'; // 'none', 'unclaimed' until the first client connects, or 'claimed'
    this._holder = undefined;
    this._undone = Promise.resolve(); // resolves once the settings of the previous holder are undone
  }

  /** Sets how long the contexts of a lost client are kept, in milliseconds. */
  setGrace(ms) {
    this._graceMs = ms;
  }

  /** The session's start URL is opened in the initial page. */
  startPageOpened() {
    this._startPage = 'unclaimed';
  }

  /** Returns undefined, or the HTTP `{ status, message }` with which a client is rejected. */
  admit({ page, name }) {
    const asks = page === 'open' || page === 'new';
    if (!asks || !this._holder || this._holder === this._named.get(name)) return undefined;
    const holder = this._holder.name === undefined ? 'a client without a name' : `client "${this._holder.name}"`;
    return { status: 409, message: `the initial page is held by ${holder}: wait until it has left, or use page=none` };
  }

  /** Returns whether an admitted client is going to be shown the start page, or undefined if there is none. */
  showsStartPage({ page, name }) {
    if (this._startPage === 'none') return undefined;
    return this._shows(this._named.get(name), page);
  }

  /** Connects an admitted client. */
  connect(connection, { page, name }) {
    const shows = this._shows(this._named.get(name), page);
    const client = this._named.get(name) ?? new Client(name);
    this._replaceConnection(client, connection);
    if (this._startPage === 'unclaimed') this._startPage = 'claimed';
    if (shows) this._holder = client;
    else this._releasePage(client);
    connection.beforeInitialized(async () => {
      await client.cleanedUp;
      if (client.connection !== connection) return;
      if (this._holder === client) {
        await this._undone;
        if (page === 'new') await this._server.defaultContext.clear();
        else await this._server.defaultContext.replaceCrashedPages();
        connection.showDefaultContext(() => this._releasePage(client));
      }
      for (const context of client.contexts.splice(0)) connection.giveContext(context);
    });
    connection.onClose((code) => this._disconnect(client, connection, code));
  }

  _replaceConnection(client, connection) {
    clearTimeout(client.expiry);
    const previous = client.connection;
    client.connection = connection;
    if (client.name !== undefined) this._moveToEnd(client);
    if (previous) {
      client.contexts.push(...previous.takeContexts());
      previous.close(REPLACED, `replaced by a newer connection of client "${client.name}"`);
      client.cleanedUp = previous.cleanedUp();
    }
  }

  _moveToEnd(client) {
    this._named.delete(client.name);
    this._named.set(client.name, client);
  }

  /** Whether a client is shown the initial page: a known client with a name, or an unknown one (undefined). */
  _shows(client, page) {
    if (page !== undefined) return page !== 'none';
    const isHolder = client !== undefined && this._holder === client;
    return isHolder || (this._startPage === 'unclaimed' && !this._holder);
  }

  _disconnect(client, connection, code) {
    if (client.connection !== connection) return;
    client.connection = undefined;
    client.cleanedUp = connection.cleanedUp();
    if (client.name === undefined || code !== ABNORMAL_CLOSURE || this._graceMs === 0) {
      this._forget(client);
      return;
    }
    client.contexts.push(...connection.takeContexts());
    this._moveToEnd(client);
    client.expiry = setTimeout(() => this._forget(client), this._graceMs);
    const lost = [...this._named.values()].filter((other) => !other.connection);
    if (lost.length > MAX_LOST_CLIENTS) this._forget(lost[0]);
  }

  /** Gives up all that a client without a connection holds. */
  _forget(client) {
    clearTimeout(client.expiry);
    if (client.name !== undefined) this._named.delete(client.name);
    for (const context of client.contexts.splice(0)) this._server.closeContext(context, 'the client did not reconnect in time');
    this._releasePage(client);
  }

  _releasePage(client) {
    if (this._holder !== client) return;
    this._holder = undefined;
    const undo = async () => {
      await client.cleanedUp;
      await this._server.defaultContext.undoSettings();
    };
    this._undone = this._undone.then(() => withTimeout(undo(), UNDO_TIMEOUT_MS));
  }
}

/** Resolves with the promise, when it fails, or at the time limit, whichever is first. */
async function withTimeout(promise, ms) {
  let timer;
  const timeout = new Promise((resolve) => (timer = setTimeout(resolve, ms)));
  await Promise.race([promise.catch(() => {}), timeout]);
  clearTimeout(timer);
}

module.exports = { Clients, MAX_LOST_CLIENTS };
