import { expect, test } from 'vitest';
import { testSession } from '#shared/test-data.ts';
import { paginate } from './wall-pagination.ts';

const vnc = { ws: '', http: 'https://fleet.example/view/a/b#token=a.b_c', password_protected: false };
const viewable = (id: string, minute: number) => testSession(id, { vnc, created_at: `2026-01-01T12:0${minute}:00Z` });
const ids = (...page: Parameters<typeof paginate>) => paginate(...page).sessions.map(({ id }) => id);
const five = [viewable('e', 4), viewable('d', 3), viewable('c', 2), viewable('b', 1), viewable('a', 1)];

test('lists the oldest sessions first, page by page', () => {
  expect(ids(five, 4, 1)).toEqual(['a', 'b', 'c', 'd']);
  expect(ids(five, 4, 2)).toEqual(['e']);
  expect(ids(five, 1, 3)).toEqual(['c']);
});

test('has at least one page, and none past the last', () => {
  expect(paginate([], 4, 7)).toEqual({ sessions: [], page: 1, pageCount: 1 });
  expect(paginate(five, 4, 7)).toMatchObject({ page: 2, pageCount: 2 });
});

test('lists only ready sessions with a live view', () => {
  expect(
    ids([testSession('headless'), { ...viewable('finished', 1), state: 'Finished' }, viewable('a', 1)], 4, 1),
  ).toEqual(['a']);
});
