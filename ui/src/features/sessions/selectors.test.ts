import { expect, test } from 'vitest';
import { duration } from '#shared/duration.ts';
import { exampleSession } from '#shared/test-data.ts';
import { ageSeconds, idleLeftSeconds, inOrder, lifeLeftSeconds, matches, rowsOf } from './selectors.ts';

const noon = Date.parse('2026-01-01T12:00:00Z');

test('the age goes on until the session is over', () => {
  expect(ageSeconds(exampleSession('a'), noon + 90_000)).toBe(90);
  expect(ageSeconds(exampleSession('a', { finished_at: '2026-01-01T12:00:10Z' }), noon + 90_000)).toBe(10);
  // A clock that is behind the gateway's.
  expect(ageSeconds(exampleSession('a'), noon - 5_000)).toBe(0);
});

test('idle time is counted from when somebody was last seen, and only for who can be used', () => {
  const seen = { last_seen_at: '2026-01-01T12:01:00Z', idle_ttl_seconds: 300 };
  expect(idleLeftSeconds(exampleSession('a', seen), noon + 120_000)).toBe(240);
  expect(idleLeftSeconds(exampleSession('a', seen), noon + 3_600_000)).toBe(0);
  expect(idleLeftSeconds(exampleSession('a', { ...seen, state: 'Queued' }), noon)).toBeNull();
  expect(idleLeftSeconds(exampleSession('a', { ...seen, idle_ttl_seconds: null }), noon)).toBeNull();
  expect(idleLeftSeconds(exampleSession('a', { ...seen, clients: null }), noon)).toBeNull();
});

test('the deadline counts until the session is over', () => {
  const session = exampleSession('a', { deadline_at: '2026-01-01T13:00:00Z' });
  expect(lifeLeftSeconds(session, noon)).toBe(3600);
  expect(lifeLeftSeconds({ ...session, state: 'Finished' }, noon)).toBeNull();
});

test('who waits is first, in the order of the queue; then the used ones and those that are over, the newest first', () => {
  const at = (id: string, state: string, minute: string) =>
    exampleSession(id, { state, created_at: `2026-01-01T12:${minute}:00Z` });
  const sessions = [
    at('over-old', 'Finished', '01'),
    at('over-new', 'Finished', '02'),
    at('ready-old', 'Ready', '03'),
    at('ready-new', 'Ready', '04'),
    at('queued-2b', 'Queued', '06'),
    at('queued-2a', 'Queued', '06'),
    at('queued-1', 'Starting', '05'),
  ];
  expect(inOrder(sessions).map(({ id }) => id)).toEqual([
    'queued-1',
    'queued-2a',
    'queued-2b',
    'ready-new',
    'ready-old',
    'over-new',
    'over-old',
  ]);
});

test('times with different offsets are compared as moments', () => {
  const early = exampleSession('b', { state: 'Queued', created_at: '2026-01-01T13:00:00+02:00' });
  expect(inOrder([exampleSession('a', { state: 'Queued' }), early]).map(({ id }) => id)).toEqual(['b', 'a']);
});

test('all words are looked for, in every column', () => {
  const session = exampleSession('abc', { labels: { team: 'Blue' }, start_url: 'https://example.org/' });
  expect(matches(session, { text: '', state: '' })).toBe(true);
  expect(matches(session, { text: 'team=blue EXAMPLE', state: 'Ready' })).toBe(true);
  expect(matches(session, { text: 'blue red', state: '' })).toBe(false);
  expect(matches(session, { text: '', state: 'Queued' })).toBe(false);
});

test('durations have two units at most', () => {
  expect([0, 42.9, 60, 200, 7500, 360_000, -3].map(duration)).toEqual([
    '0 s',
    '42 s',
    '1 min',
    '3 min 20 s',
    '2 h 5 min',
    '4 d 4 h',
    '0 s',
  ]);
});

test('rows stay the same while they look the same, and so does their list', () => {
  const [a, b] = [exampleSession('a'), exampleSession('b')];
  const first = rowsOf([a, b], []);
  expect(rowsOf([{ ...a, labels: { changed: 'yes' } }, b], first)).toBe(first);
  const turned = rowsOf([b, a], first);
  expect(turned).toEqual([first[1], first[0]]);
  expect(turned[0]).toBe(first[1]);
  const over = rowsOf([{ ...a, state: 'Finished' }, b], first);
  expect(over[0]).not.toBe(first[0]);
  expect(over[1]).toBe(first[1]);
  expect(rowsOf([a], first)).toEqual([first[0]]);
});
