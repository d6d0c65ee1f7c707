import { expect, test } from 'vitest';
import { testSession } from '#shared/test-data.ts';
import { ageSeconds, idleSecondsLeft, lifetimeSecondsLeft, matchesFilter, sortSessions } from './selectors.ts';

const noon = Date.parse('2026-01-01T12:00:00Z');

test('the age stops when the session finishes', () => {
  expect(ageSeconds(testSession('a'), noon + 90_000)).toBe(90);
  expect(ageSeconds(testSession('a', { finished_at: '2026-01-01T12:00:10Z' }), noon + 90_000)).toBe(10);
  // The clock of this machine is behind the gateway's.
  expect(ageSeconds(testSession('a'), noon - 5_000)).toBe(0);
});

test('the idle timeout counts from the last activity, and only for a ready session', () => {
  const seen = { last_seen_at: '2026-01-01T12:01:00Z', idle_ttl_seconds: 300 };
  expect(idleSecondsLeft(testSession('a', seen), noon + 120_000)).toBe(240);
  expect(idleSecondsLeft(testSession('a', seen), noon + 3_600_000)).toBe(0);
  expect(idleSecondsLeft(testSession('a', { ...seen, state: 'Queued' }), noon)).toBeNull();
  expect(idleSecondsLeft(testSession('a', { ...seen, idle_ttl_seconds: null }), noon)).toBeNull();
  expect(idleSecondsLeft(testSession('a', { ...seen, clients: null }), noon)).toBeNull();
});

test('the lifetime counts until the session finishes', () => {
  const session = testSession('a', { deadline_at: '2026-01-01T13:00:00Z' });
  expect(lifetimeSecondsLeft(session, noon)).toBe(3600);
  expect(lifetimeSecondsLeft({ ...session, state: 'Finished' }, noon)).toBeNull();
});

test('sorts waiting sessions first, in the order of their creation; then ready and finished ones, newest first', () => {
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

test('compares times with different offsets', () => {
  const early = testSession('b', { state: 'Queued', created_at: '2026-01-01T13:00:00+02:00' });
  expect(sortSessions([testSession('a', { state: 'Queued' }), early]).map(({ id }) => id)).toEqual(['b', 'a']);
});

test('matches all words in any column', () => {
  const session = testSession('abc', { labels: { team: 'Blue' }, start_url: 'https://example.org/' });
  expect(matchesFilter(session, { text: '', state: '' })).toBe(true);
  expect(matchesFilter(session, { text: 'team=blue EXAMPLE', state: 'Ready' })).toBe(true);
  expect(matchesFilter(session, { text: 'blue red', state: '' })).toBe(false);
  expect(matchesFilter(session, { text: '', state: 'Queued' })).toBe(false);
});
