import { describe, expect, test } from 'vitest';
import { begin, type Happening, type State, step } from './connection.ts';

const connected: Happening = { what: 'connected', granted: 'view' };
const slow: Happening = { what: 'slow' };
const waited: Happening = { what: 'waited' };
const unreachable: Happening = { what: 'unreachable' };

function closed(code: number, reason = '', heldMs = 0): Happening {
  return { what: 'closed', code, reason, heldMs };
}

function answered(status: number, detail = '', retryAfterSeconds: number | null = null): Happening {
  return { what: 'answered', status, detail, retryAfterSeconds };
}

function having(...happenings: Happening[]): State {
  return happenings.reduce(step, begin('view'));
}

/** The pauses before the next attempts, when each one ends like the first. */
function pauses(count: number, failure: Happening): number[] {
  const found: number[] = [];
  let state = begin('view');
  for (let attempt = 0; attempt < count; attempt++) {
    state = step(state, failure);
    found.push(state.task?.do === 'wait' ? state.task.ms : 0);
    state = step(state, waited);
  }
  return found;
}

test('a view dials, and is connected with what was granted', () => {
  expect(begin('control')).toMatchObject({ shown: { is: 'connecting' }, wanted: 'control', task: { do: 'dial' } });
  expect(step(begin('control'), connected).shown).toEqual({ is: 'connected', granted: 'view' });
});

test('being connected does not begin another task', () => {
  const dialling = begin('view');
  expect(step(dialling, connected).task).toBe(dialling.task);
  expect(step(step(dialling, slow), connected).task).toBe(dialling.task);
});

describe('a close with words', () => {
  test('4410 ends the view with its reason', () => {
    expect(having(connected, closed(4410, 'IdleTimeout: 300 s'))).toMatchObject({
      shown: { is: 'ended', reason: 'IdleTimeout: 300 s' },
      task: null,
    });
  });

  test('4401 is final and says what to do', () => {
    const { shown, task } = having(connected, closed(4401, 'the token expired'));
    expect(task).toBeNull();
    expect(shown).toMatchObject({ is: 'refused', words: expect.stringMatching(/^the token expired\. Ask for a new/) });
  });

  test.each([1002, 1003, 1007, 1008, 1009])('%i is final', (code) => {
    expect(having(connected, closed(code, 'too long'))).toMatchObject({
      shown: { is: 'refused', words: expect.stringContaining(`too long (code ${code})`) },
      task: null,
    });
  });

  test('1001 dials again at once, and waits only when that leads to nothing', () => {
    expect(pauses(4, closed(1001))).toEqual([0, 1000, 2000, 4000]);
  });

  test('1011 waits longer each time, half a minute at most', () => {
    expect(pauses(7, closed(1011))).toEqual([1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  });
});

test('a connection that lasted forgets the failures before it, one that did not keeps them', () => {
  const failing = having(closed(1011), waited, closed(1011), waited, connected);
  expect(step(failing, closed(1011, '', 4_999)).task).toEqual({ do: 'wait', ms: 4000 });
  expect(step(failing, closed(1011, '', 5_000)).task).toEqual({ do: 'wait', ms: 1000 });
});

describe('a close without words', () => {
  test.each([1000, 1005, 1006, 1012, 4999])('%i is asked about', (code) => {
    expect(having(closed(code))).toMatchObject({ shown: { is: 'connecting' }, task: { do: 'ask' } });
    expect(having(connected, closed(code))).toMatchObject({ shown: { is: 'reconnecting' }, task: { do: 'ask' } });
  });

  test.each([
    [401, 'refused'],
    [403, 'refused'],
    [404, 'refused'],
    [410, 'ended'],
  ])('the answer %i is final: %s', (status, is) => {
    const { shown, task } = having(closed(1006), answered(status, 'the words of the gateway'));
    expect(task).toBeNull();
    expect(shown.is).toBe(is);
    expect(JSON.stringify(shown)).toContain('the words of the gateway');
  });

  test('426: dial again, first at once', () => {
    const once = having(closed(1006), answered(426));
    expect(once).toMatchObject({ shown: { is: 'reconnecting' }, task: { do: 'dial' } });
    expect([closed(1006), answered(426)].reduce(step, once).task).toEqual({ do: 'wait', ms: 1000 });
  });

  test.each([unreachable, answered(502), answered(200)])('%o: with back-off', (answer) => {
    expect(pauses(4, answer)).toEqual([1000, 2000, 4000, 8000]);
  });
});

describe('503', () => {
  test('before there was a picture: the session is starting', () => {
    const state = having(closed(1006), answered(503, 'Starting: no free slot', 3));
    expect(state).toMatchObject({
      shown: { is: 'starting', detail: 'Starting: no free slot' },
      task: { do: 'wait', ms: 3000 },
    });
    const again = step(state, waited);
    expect(again).toMatchObject({ shown: { is: 'starting' }, task: { do: 'dial' }, failures: 0 });
  });

  test('after there was one: reconnecting', () => {
    expect(having(connected, closed(1006), answered(503, 'going')).shown).toMatchObject({
      is: 'reconnecting',
      why: 'going.',
    });
  });

  test.each([
    [null, 1000],
    [0, 1000],
    [3600, 30000],
  ])('Retry-After %s is %i ms', (seconds, ms) => {
    expect(having(closed(1006), answered(503, '', seconds)).task).toEqual({ do: 'wait', ms });
  });
});

test('what takes long is a session that starts; the task goes on', () => {
  const dialling = begin('view');
  const starting = step(dialling, slow);
  expect(starting.shown).toEqual({ is: 'starting', detail: '' });
  expect(starting.task).toBe(dialling.task);
  const reconnecting = having(connected, closed(1001));
  expect(step(reconnecting, slow)).toBe(reconnecting);
});

test('who hurries skips the pause, and nothing else', () => {
  expect(having(closed(1011), { what: 'hurried' }).task).toEqual({ do: 'dial' });
  const watching = having(connected);
  expect(step(watching, { what: 'hurried' })).toBe(watching);
});

test('another role is another connection', () => {
  const watching = having(connected);
  const asking = step(watching, { what: 'asked', role: 'control' });
  expect(asking).toMatchObject({ shown: { is: 'connecting' }, wanted: 'control', task: { do: 'dial' } });
  expect(asking.task).not.toBe(watching.task);
  expect(step(watching, { what: 'asked', role: 'view' })).toBe(watching);
});

test('nothing leads out of a final state', () => {
  const everything = [
    connected,
    closed(1001),
    answered(426),
    unreachable,
    slow,
    waited,
    { what: 'hurried' },
    { what: 'asked', role: 'control' },
    { what: 'broke', title: '', words: '' },
  ] as const;
  for (const final of [having(closed(4410)), having({ what: 'broke', title: 'No', words: 'Because' })]) {
    for (const happening of everything) expect(step(final, happening)).toBe(final);
  }
});
