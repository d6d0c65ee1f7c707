import { expect, test } from 'vitest';
import { formatRoute, parseRoute } from './route.ts';

test('an empty query is the list of all sessions', () => {
  expect(parseRoute('')).toEqual({
    namespace: null,
    tab: 'sessions',
    searchText: '',
    state: '',
    session: null,
    startFormOpen: false,
    wallSize: 4,
    wallPage: 1,
  });
  expect(formatRoute(parseRoute(''))).toBe('');
});

test('formats the query that it parsed', () => {
  for (const query of [
    '?q=team%3Dblue+x&state=Ready&session=a-b',
    '?ns=team-b&tab=wall&size=9&page=3',
    '?tab=pools',
    '?start=1',
  ]) {
    expect(formatRoute(parseRoute(query))).toBe(query);
  }
});

test('ignores invalid values', () => {
  expect(formatRoute(parseRoute('?tab=x&state=Foo&size=7&page=-1&session=&other=1'))).toBe('');
  expect(parseRoute('?page=1.5').wallPage).toBe(1);
});
