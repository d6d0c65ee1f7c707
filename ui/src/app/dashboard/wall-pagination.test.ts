import { expect, test } from 'vitest';
import { exampleSession } from '#shared/test-data.ts';
import { wallPage } from './wall-pagination.ts';

const vnc = { ws: '', http: 'https://fleet.example/view/a/b#token=a.b_c', password_protected: false };
const watched = (id: string, minute: number) => exampleSession(id, { vnc, created_at: `2026-01-01T12:0${minute}:00Z` });
const ids = (...page: Parameters<typeof wallPage>) => wallPage(...page).shown.map(({ id }) => id);
const five = [watched('e', 4), watched('d', 3), watched('c', 2), watched('b', 1), watched('a', 1)];

test('the oldest are first, page by page', () => {
  expect(ids(five, 4, 1)).toEqual(['a', 'b', 'c', 'd']);
  expect(ids(five, 4, 2)).toEqual(['e']);
  expect(ids(five, 1, 3)).toEqual(['c']);
});

test('there is always a page, and never one past the last', () => {
  expect(wallPage([], 4, 7)).toEqual({ shown: [], page: 1, pages: 1 });
  expect(wallPage(five, 4, 7)).toMatchObject({ page: 2, pages: 2 });
});

test('only what can be watched is there', () => {
  expect(
    ids([exampleSession('headless'), { ...watched('over', 1), state: 'Finished' }, watched('a', 1)], 4, 1),
  ).toEqual(['a']);
});
