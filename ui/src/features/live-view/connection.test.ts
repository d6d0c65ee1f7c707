import { describe, expect, test } from 'vitest';
import { type ConnectionEvent, type ConnectionState, initialState, reduce } from './connection.ts';

const connected: ConnectionEvent = { type: 'connected', granted: 'view' };
const slow: ConnectionEvent = { type: 'slow' };
const waitElapsed: ConnectionEvent = { type: 'wait-elapsed' };
const unreachable: ConnectionEvent = { type: 'unreachable' };

function closed(code: number, reason = '', connectedMs = 0): ConnectionEvent {
  return { type: 'closed', code, reason, connectedMs };
}

function probed(status: number, detail = '', retryAfterSeconds: number | null = null): ConnectionEvent {
  return { type: 'probed', status, detail, retryAfterSeconds };
}

function stateAfter(...events: ConnectionEvent[]): ConnectionState {
  return events.reduce(reduce, initialState('view'));
}

/** The waits before the next attempts, when each attempt fails in the same way. */
function pauses(count: number, failure: ConnectionEvent): number[] {
  const found: number[] = [];
  let state = initialState('view');
  for (let attempt = 0; attempt < count; attempt++) {
    state = reduce(state, failure);
    found.push(state.effect?.type === 'wait' ? state.effect.ms : 0);
    state = reduce(state, waitElapsed);
  }
  return found;
}

test('connects, and has the granted scope', () => {
  expect(initialState('control')).toMatchObject({
    phase: { type: 'connecting' },
    requested: 'control',
    effect: { type: 'connect' },
  });
  expect(reduce(initialState('control'), connected).phase).toEqual({ type: 'connected', granted: 'view' });
});

test('being connected keeps the effect', () => {
  const connecting = initialState('view');
  expect(reduce(connecting, connected).effect).toBe(connecting.effect);
  expect(reduce(reduce(connecting, slow), connected).effect).toBe(connecting.effect);
});

describe('a close code that has a meaning', () => {
  test('4410 ends the view with its reason', () => {
    expect(stateAfter(connected, closed(4410, 'IdleTimeout: 300 s'))).toMatchObject({
      phase: { type: 'ended', reason: 'IdleTimeout: 300 s' },
      effect: null,
    });
  });

  test('4401 is final and shows what to do', () => {
    const { phase, effect } = stateAfter(connected, closed(4401, 'the token expired'));
    expect(effect).toBeNull();
    expect(phase).toMatchObject({ type: 'failed', text: expect.stringMatching(/^the token expired\. Ask for a new/) });
  });

  test.each([1002, 1003, 1007, 1008, 1009])('%i is final', (code) => {
    expect(stateAfter(connected, closed(code, 'too long'))).toMatchObject({
      phase: { type: 'failed', text: expect.stringContaining(`too long (code ${code})`) },
      effect: null,
    });
  });

  test('1001 reconnects at once, and backs off when that fails', () => {
    expect(pauses(4, closed(1001))).toEqual([0, 1000, 2000, 4000]);
  });

  test('1011 backs off exponentially, up to 30 s', () => {
    expect(pauses(7, closed(1011))).toEqual([1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  });
});

test('a stable connection resets the failures, a short one keeps them', () => {
  const failing = stateAfter(closed(1011), waitElapsed, closed(1011), waitElapsed, connected);
  expect(reduce(failing, closed(1011, '', 4_999)).effect).toEqual({ type: 'wait', ms: 4000 });
  expect(reduce(failing, closed(1011, '', 5_000)).effect).toEqual({ type: 'wait', ms: 1000 });
});

describe('a close code without a meaning', () => {
  test.each([1000, 1005, 1006, 1012, 4999])('%i starts a probe', (code) => {
    expect(stateAfter(closed(code))).toMatchObject({ phase: { type: 'connecting' }, effect: { type: 'probe' } });
    expect(stateAfter(connected, closed(code))).toMatchObject({
      phase: { type: 'reconnecting' },
      effect: { type: 'probe' },
    });
  });

  test.each([
    [401, 'failed'],
    [403, 'failed'],
    [404, 'failed'],
    [410, 'ended'],
  ])('the answer %i is final: %s', (status, phaseType) => {
    const { phase, effect } = stateAfter(closed(1006), probed(status, 'the detail of the gateway'));
    expect(effect).toBeNull();
    expect(phase.type).toBe(phaseType);
    expect(JSON.stringify(phase)).toContain('the detail of the gateway');
  });

  test('426 reconnects, the first time at once', () => {
    const once = stateAfter(closed(1006), probed(426));
    expect(once).toMatchObject({ phase: { type: 'reconnecting' }, effect: { type: 'connect' } });
    expect([closed(1006), probed(426)].reduce(reduce, once).effect).toEqual({ type: 'wait', ms: 1000 });
  });

  test.each([unreachable, probed(502), probed(200)])('%o reconnects with back-off', (answer) => {
    expect(pauses(4, answer)).toEqual([1000, 2000, 4000, 8000]);
  });
});

describe('503', () => {
  test('the session is starting before the first picture', () => {
    const state = stateAfter(closed(1006), probed(503, 'Starting: no free slot', 3));
    expect(state).toMatchObject({
      phase: { type: 'starting', detail: 'Starting: no free slot' },
      effect: { type: 'wait', ms: 3000 },
    });
    const again = reduce(state, waitElapsed);
    expect(again).toMatchObject({ phase: { type: 'starting' }, effect: { type: 'connect' }, failures: 0 });
  });

  test('the view is reconnecting after the first picture', () => {
    expect(stateAfter(connected, closed(1006), probed(503, 'going')).phase).toMatchObject({
      type: 'reconnecting',
      reason: 'going.',
    });
  });

  test.each([
    [null, 1000],
    [0, 1000],
    [3600, 30000],
  ])('Retry-After %s waits %i ms', (seconds, ms) => {
    expect(stateAfter(closed(1006), probed(503, '', seconds)).effect).toEqual({ type: 'wait', ms });
  });
});

test('a slow connection attempt shows that the session is starting, and goes on', () => {
  const connecting = initialState('view');
  const starting = reduce(connecting, slow);
  expect(starting.phase).toEqual({ type: 'starting', detail: '' });
  expect(starting.effect).toBe(connecting.effect);
  const reconnecting = stateAfter(connected, closed(1001));
  expect(reduce(reconnecting, slow)).toBe(reconnecting);
});

test('a requested retry skips the wait, and nothing else', () => {
  expect(stateAfter(closed(1011), { type: 'retry-requested' }).effect).toEqual({ type: 'connect' });
  const viewing = stateAfter(connected);
  expect(reduce(viewing, { type: 'retry-requested' })).toBe(viewing);
});

test('another scope opens another connection', () => {
  const viewing = stateAfter(connected);
  const requesting = reduce(viewing, { type: 'scope-requested', scope: 'control' });
  expect(requesting).toMatchObject({
    phase: { type: 'connecting' },
    requested: 'control',
    effect: { type: 'connect' },
  });
  expect(requesting.effect).not.toBe(viewing.effect);
  expect(reduce(viewing, { type: 'scope-requested', scope: 'view' })).toBe(viewing);
});

test('requests no wider scope than is permitted', () => {
  const viewing = reduce(initialState('control', 'view'), connected);
  expect(viewing.requested).toBe('view');
  expect(reduce(viewing, { type: 'scope-requested', scope: 'control' })).toBe(viewing);
});

test('a final state ignores every event', () => {
  const everything = [
    connected,
    closed(1001),
    probed(426),
    unreachable,
    slow,
    waitElapsed,
    { type: 'retry-requested' },
    { type: 'scope-requested', scope: 'control' },
    { type: 'client-failed', title: '', text: '' },
  ] as const;
  for (const final of [stateAfter(closed(4410)), stateAfter({ type: 'client-failed', title: 'No', text: 'Because' })]) {
    for (const event of everything) expect(reduce(final, event)).toBe(final);
  }
});
