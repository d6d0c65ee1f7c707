import { expect, test } from 'vitest';
import { testSession } from '#shared/test-data.ts';
import { ageSeconds, idleSecondsLeft, lifetimeSecondsLeft, matchesFilter, sortSessions } from './selectors.ts';

const noon = Date.parse('2026-01-01T12:00:00Z');

test('the age goes on until the session is over', () => {
  expect(ageSeconds(testSession('a'), noon + 90_000)).toBe(90);
  expect(ageSeconds(testSession('a', { finished_at: '2026-01-01T12:00:10Z' }), noon + 90_000)).toBe(10);
  // A clock that is behind the gateway's.
  expect(ageSeconds(testSession('a'), noon - 5_000)).toBe(0);
});

test('idle time is counted from when somebody was last seen, and only for who can be used', () => {
  const seen = { last_seen_at: '2026-01-01T12:01:00Z', idle_ttl_seconds: 300 };
  expect(idleSecondsLeft(testSession('a', seen), noon + 120_000)).toBe(240);
  expect(idleSecondsLeft(testSession('a', seen), noon + 3_600_000)).toBe(0);
  expect(idleSecondsLeft(testSession('a', { ...seen, state: 'Queued' }), noon)).toBeNull();
  expect(idleSecondsLeft(testSession('a', { ...seen, idle_ttl_seconds: null }), noon)).toBeNull();
  expect(idleSecondsLeft(testSession('a', { ...seen, clients: null }), noon)).toBeNull();
});

test('the deadline counts until the session is over', () => {
  const session = testSession('a', { deadline_at: '2026-01-01T13:00:00Z' });
  expect(lifetimeSecondsLeft(session, noon)).toBe(3600);
  expect(lifetimeSecondsLeft({ ...session, state: 'Finished' }, noon)).toBeNull();
});

test('who waits is first, in the order of the queue; then the used ones and those that are over, the newest first', () => {
  const at = (id: string, state: string, minute: string) =>
    testSession(id, { state, created_at: `2026-01-01T12:${minute}:00Z` });
  const sessions = [
    at('finished-old', 'Finished', '01'),
    at('finished-new', 'Finished', '02'),
    at('ready-old', 'Ready', '03'),
    at('ready-new', 'Ready', '04'),
    at('queued-2b', 'Queued', '06'),
    at('queued-2a', 'Queued', '06'),
    at('queued-1', 'Starting', '05'),
  ];
  expect(sortSessions(sessions).map(({ id }) => id)).toEqual([
    'queued-1',
    'queued-2a',
    'queued-2b',
    'ready-new',
    'ready-old',
    'finished-new',
    'finished-old',
  ]);
});

test('times with different offsets are compared as moments', () => {
  const early = testSession('b', { state: 'Queued', created_at: '2026-01-01T13:00:00+02:00' });
  expect(sortSessions([testSession('a', { state: 'Queued' }), early]).map(({ id }) => id)).toEqual(['b', 'a']);
});

test('all words are looked for, in every column', () => {
  const session = testSession('abc', { labels: { team: 'Blue' }, start_url: 'https://example.org/' });
  expect(matchesFilter(session, { text: '', state: '' })).toBe(true);
  expect(matchesFilter(session, { text: 'team=blue EXAMPLE', state: 'Ready' })).toBe(true);
  expect(matchesFilter(session, { text: 'blue red', state: '' })).toBe(false);
  expect(matchesFilter(session, { text: '', state: 'Queued' })).toBe(false);
});
