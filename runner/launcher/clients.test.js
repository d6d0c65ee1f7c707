'use strict';

const assert = require('node:assert/strict');
const { beforeEach, describe, it } = require('node:test');
const { Clients, MAX_LOST_CLIENTS } = require('./clients');

const LOST = 1006;
const CLOSED = 1005;
const GRACE_MS = 60_000;

/** A connection whose client has created one context. */
class FakeConnection {
  constructor(context) {
    this.contexts = context ? [context] : [];
    this.given = [];
    this.showsDefaultContext = false;
  }
  beforeInitialized(prepare) {
    this.initialize = prepare;
  }
  onClose(callback) {
    this.end = callback;
  }
  cleanedUp() {
    return Promise.resolve();
  }
  takeContexts() {
    return this.contexts.splice(0);
  }
  giveContext(context) {
    this.given.push(context);
    this.contexts.push(context);
  }
  showDefaultContext(onClosed) {
    this.showsDefaultContext = true;
    this.closeDefaultContext = onClosed;
  }
  close(code, reason) {
    this.closed = { code, reason };
    this.end(code);
  }
}

describe('Clients', () => {
  let clients;
  let log; // what happened to contexts and to the initial page

  beforeEach(() => {
    log = [];
    const server = {
      closeContext: (context, reason) => log.push(`close ${context}: ${reason}`),
      defaultContext: {
        undoSettings: async () => log.push('undo'),
        replaceCrashedPages: async () => {},
        clear: async () => log.push('clear'),
      },
    };
    clients = new Clients(server);
    clients.setGrace(GRACE_MS);
  });

  /** Connects a client, unless it is rejected, and initializes it. */
  const connect = async (request = {}, context = undefined) => {
    const rejection = clients.admit(request);
    if (rejection) return { rejection };
    const connection = new FakeConnection(context);
    clients.connect(connection, request);
    await connection.initialize();
    return connection;
  };
  const settled = () => new Promise((resolve) => setImmediate(resolve));

  it('knows no start page before one is opened', async () => {
    assert.equal(clients.showsStartPage({}), undefined);
    assert.equal((await connect()).showsDefaultContext, false);
  });

  it('shows the initial page to a client that asks for it, and rejects another until it has left', async () => {
    const plain = await connect();
    assert.equal(plain.showsDefaultContext, false);
    const holder = await connect({ page: 'open', name: 'one' });
    assert.equal(holder.showsDefaultContext, true);
    const { rejection } = await connect({ page: 'open' });
    assert.equal(rejection.status, 409);
    assert.match(rejection.message, /held by client "one"/);
    assert.equal((await connect({ page: 'none' })).showsDefaultContext, false);
    holder.end(CLOSED);
    const next = await connect({ page: 'open' });
    assert.equal(next.showsDefaultContext, true);
    assert.deepEqual(log, ['undo'], 'the settings were undone before the next client');
    assert.match((await connect({ page: 'new' })).rejection.message, /a client without a name/);
  });

  it('empties the initial page for a client that asks for a new one', async () => {
    assert.equal((await connect({ page: 'new' })).showsDefaultContext, true);
    assert.deepEqual(log, ['clear']);
  });

  it('shows a start page to the first client only', async () => {
    clients.startPageOpened();
    assert.equal(clients.showsStartPage({}), true);
    const first = await connect();
    assert.equal(first.showsDefaultContext, true);
    assert.equal(clients.showsStartPage({}), false);
    assert.equal((await connect()).showsDefaultContext, false);
    first.end(CLOSED);
    assert.equal((await connect()).showsDefaultContext, false);
    assert.equal(clients.showsStartPage({ page: 'open' }), true);
  });

  it('does not show a start page to a first client that declines it', async () => {
    clients.startPageOpened();
    assert.equal((await connect({ page: 'none' })).showsDefaultContext, false);
    assert.equal((await connect()).showsDefaultContext, false, 'it is not the first');
  });

  it('frees the initial page when its holder closes the default context', async () => {
    const holder = await connect({ page: 'open' });
    holder.closeDefaultContext();
    assert.equal((await connect({ page: 'open' })).showsDefaultContext, true);
    holder.end(CLOSED);
    assert.ok((await connect({ page: 'open' })).rejection, 'the former holder does not free the page of the next');
  });

  it('does not wait forever for a page on which undoing hangs', async (test) => {
    test.mock.timers.enable({ apis: ['setTimeout'] });
    clients._server.defaultContext.undoSettings = () => new Promise(() => {});
    (await connect({ page: 'open' })).end(CLOSED);
    const next = new FakeConnection();
    clients.connect(next, { page: 'open' });
    const initialized = next.initialize();
    await settled();
    assert.equal(next.showsDefaultContext, false);
    test.mock.timers.tick(5_000);
    await initialized;
    assert.equal(next.showsDefaultContext, true);
  });

  it('keeps the contexts of a lost client with a name, and no others', async (test) => {
    test.mock.timers.enable({ apis: ['setTimeout'] });
    const [lost, unnamed, closed] = [
      await connect({ name: 'a' }, 'context of a'),
      await connect({}, 'context without a name'),
      await connect({ name: 'b' }, 'context of b'),
    ];
    lost.end(LOST);
    unnamed.end(LOST);
    closed.end(CLOSED);
    assert.deepEqual([lost.contexts, unnamed.contexts.length, closed.contexts.length], [[], 1, 1]);
    (await connect()).end(CLOSED); // another client does not end the grace
    assert.deepEqual((await connect({ name: 'a' })).given, ['context of a']);
    assert.deepEqual((await connect({ name: 'b' })).given, []);
    test.mock.timers.tick(GRACE_MS);
    assert.deepEqual(log, [], 'the timer of the client that came back is cancelled');
  });

  it('closes the contexts of a lost client after the grace', async (test) => {
    test.mock.timers.enable({ apis: ['setTimeout'] });
    (await connect({ name: 'a', page: 'open' }, 'kept')).end(LOST);
    test.mock.timers.tick(GRACE_MS - 1);
    assert.match((await connect({ page: 'open' })).rejection.message, /"a"/, 'it still holds the initial page');
    test.mock.timers.tick(1);
    await settled();
    assert.deepEqual(log, ['close kept: the client did not reconnect in time', 'undo']);
    assert.deepEqual((await connect({ name: 'a' })).given, []);
  });

  it('gives a lost holder the initial page back without asking, as it was', async () => {
    (await connect({ name: 'a', page: 'open' })).end(LOST);
    assert.equal((await connect({ name: 'a' })).showsDefaultContext, true);
    assert.deepEqual(log, []);
    assert.equal((await connect({ name: 'a', page: 'none' })).showsDefaultContext, false);
    await settled();
    assert.deepEqual(log, ['undo'], 'page=none gives it up');
  });

  it('replaces the open connection of the same name, and says so', async () => {
    const former = await connect({ name: 'a', page: 'open' }, 'context');
    const next = await connect({ name: 'a', page: 'open' });
    assert.deepEqual(former.closed, { code: 4409, reason: 'replaced by a newer connection of client "a"' });
    assert.deepEqual([next.given, next.showsDefaultContext, log], [['context'], true, []]);
    next.end(LOST);
    assert.deepEqual((await connect({ name: 'a' })).given, ['context']);
  });

  it('keeps at most 16 lost clients, and forgets the one that was lost first', async () => {
    const connections = [];
    for (let number = 0; number <= MAX_LOST_CLIENTS; number++) {
      connections.push(await connect({ name: `client-${number}` }, `context ${number}`));
    }
    connections.reverse().forEach((connection) => connection.end(LOST));
    assert.deepEqual(log, [`close context ${MAX_LOST_CLIENTS}: the client did not reconnect in time`]);
    for (let number = 0; number < MAX_LOST_CLIENTS; number++) clients._forget(clients._named.get(`client-${number}`));
  });

  it('keeps nothing without a grace', async () => {
    clients.setGrace(0);
    const client = await connect({ name: 'a' }, 'context');
    client.end(LOST);
    assert.deepEqual([(await connect({ name: 'a' })).given, client.contexts], [[], ['context']]);
  });
});
