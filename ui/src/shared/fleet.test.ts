import { expect, test } from 'vitest';
import { applyEvent, type FleetEvent, parseEvent } from './fleet.ts';
import { testPool, testSession } from './test-data.ts';

const reset: FleetEvent = { type: 'reset', sessions: [testSession('a')], pools: [testPool('p')] };
const after = (...events: FleetEvent[]) => events.reduce(applyEvent, undefined);

test('stays undefined before the first reset', () => {
  expect(after({ type: 'session', session: testSession('a') })).toBeUndefined();
  expect(after({ type: 'pool-gone', id: 'p' })).toBeUndefined();
});

test('a reset replaces the whole fleet', () => {
  const fleet = after(reset, { type: 'reset', sessions: [testSession('b')], pools: [] });
  expect([...(fleet?.sessions.keys() ?? [])]).toEqual(['b']);
  expect(fleet?.pools.size).toBe(0);
});

test('adds and replaces sessions and pools', () => {
  const fleet = after(
    reset,
    { type: 'session', session: testSession('b', { state: 'Queued' }) },
    { type: 'session', session: testSession('b', { state: 'Ready' }) },
    { type: 'pool', pool: testPool('p', { queued: 7 }) },
  );
  expect(fleet?.sessions.get('b')?.state).toBe('Ready');
  expect(fleet?.sessions.size).toBe(2);
  expect(fleet?.pools.get('p')?.queued).toBe(7);
});

test('removes sessions and pools, and adds them again', () => {
  expect(after(reset, { type: 'session-gone', id: 'a' })?.sessions.size).toBe(0);
  expect(after(reset, { type: 'pool-gone', id: 'p' })?.pools.size).toBe(0);
  const again = after(
    reset,
    { type: 'session-gone', id: 'a' },
    { type: 'session', session: testSession('a', { state: 'Queued' }) },
  );
  expect(again?.sessions.get('a')?.state).toBe('Queued');
});

test('an unknown id changes nothing, and a change keeps the identity of the other objects', () => {
  const fleet = after(reset);
  expect(applyEvent(fleet, { type: 'session-gone', id: 'x' })).toBe(fleet);
  expect(applyEvent(fleet, { type: 'pool-gone', id: 'x' })).toBe(fleet);
  const next = applyEvent(fleet, { type: 'session', session: testSession('b') });
  expect(next?.pools).toBe(fleet?.pools);
  expect(next?.sessions.get('a')).toBe(fleet?.sessions.get('a'));
  expect(fleet?.sessions.has('b')).toBe(false);
});

test('parses events by their names in the REST API', () => {
  expect(parseEvent('session-gone', '{"id":"a"}')).toEqual({ type: 'session-gone', id: 'a' });
  expect(parseEvent('session', JSON.stringify(testSession('a')))).toMatchObject({ session: { id: 'a' } });
  expect(parseEvent('reset', '{"sessions":[],"workers":[]}')).toEqual({ type: 'reset', sessions: [], pools: [] });
  expect(parseEvent('worker', JSON.stringify(testPool('p')))).toMatchObject({ type: 'pool', pool: { name: 'p' } });
  expect(parseEvent('worker-gone', '{"id":"p"}')).toEqual({ type: 'pool-gone', id: 'p' });
});
