import { expect, test } from 'vitest';
import { type FleetEvent, fold, parseEvent } from './fleet.ts';
import { examplePool, exampleSession } from './test-data.ts';

const reset: FleetEvent = { type: 'reset', sessions: [exampleSession('a')], workers: [examplePool('p')] };
const after = (...events: FleetEvent[]) => events.reduce(fold, undefined);

test('nothing is known before a reset', () => {
  expect(after({ type: 'session', session: exampleSession('a') })).toBeUndefined();
  expect(after({ type: 'worker-gone', id: 'p' })).toBeUndefined();
});

test('a reset is everything, and forgets what was before', () => {
  const fleet = after(reset, { type: 'reset', sessions: [exampleSession('b')], workers: [] });
  expect([...(fleet?.sessions.keys() ?? [])]).toEqual(['b']);
  expect(fleet?.workers.size).toBe(0);
});

test('what is new or changed is there as it was told last', () => {
  const fleet = after(
    reset,
    { type: 'session', session: exampleSession('b', { state: 'Queued' }) },
    { type: 'session', session: exampleSession('b', { state: 'Ready' }) },
    { type: 'worker', worker: examplePool('p', { queued: 7 }) },
  );
  expect(fleet?.sessions.get('b')?.state).toBe('Ready');
  expect(fleet?.sessions.size).toBe(2);
  expect(fleet?.workers.get('p')?.queued).toBe(7);
});

test('what is gone is gone, and comes back when it is told again', () => {
  expect(after(reset, { type: 'session-gone', id: 'a' })?.sessions.size).toBe(0);
  expect(after(reset, { type: 'worker-gone', id: 'p' })?.workers.size).toBe(0);
  const again = after(
    reset,
    { type: 'session-gone', id: 'a' },
    { type: 'session', session: exampleSession('a', { state: 'Queued' }) },
  );
  expect(again?.sessions.get('a')?.state).toBe('Queued');
});

test('the end of what is not known changes nothing, and a change leaves the rest the same object', () => {
  const fleet = after(reset);
  expect(fold(fleet, { type: 'session-gone', id: 'x' })).toBe(fleet);
  expect(fold(fleet, { type: 'worker-gone', id: 'x' })).toBe(fleet);
  const next = fold(fleet, { type: 'session', session: exampleSession('b') });
  expect(next?.workers).toBe(fleet?.workers);
  expect(next?.sessions.get('a')).toBe(fleet?.sessions.get('a'));
  expect(fleet?.sessions.has('b')).toBe(false);
});

test('events are read by their names', () => {
  expect(parseEvent('session-gone', '{"id":"a"}')).toEqual({ type: 'session-gone', id: 'a' });
  expect(parseEvent('session', JSON.stringify(exampleSession('a')))).toMatchObject({ session: { id: 'a' } });
  expect(parseEvent('reset', '{"sessions":[],"workers":[]}')).toEqual({ type: 'reset', sessions: [], workers: [] });
});
