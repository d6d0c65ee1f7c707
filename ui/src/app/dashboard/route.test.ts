import { expect, test } from 'vitest';
import { formatPlace, parsePlace } from './route.ts';

test('an address without a query is the list of all sessions', () => {
  expect(parsePlace('')).toEqual({
    namespace: null,
    tab: 'sessions',
    text: '',
    state: '',
    session: null,
    starting: false,
    wallSize: 4,
    page: 1,
  });
  expect(formatPlace(parsePlace(''))).toBe('');
});

test('what is written is what is read', () => {
  for (const query of [
    '?q=team%3Dblue+x&state=Ready&session=a-b',
    '?ns=team-b&tab=wall&size=9&page=3',
    '?tab=pools',
    '?start=1',
  ]) {
    expect(formatPlace(parsePlace(query))).toBe(query);
  }
});

test('what makes no sense counts as left out', () => {
  expect(formatPlace(parsePlace('?tab=x&state=Foo&size=7&page=-1&session=&other=1'))).toBe('');
  expect(parsePlace('?page=1.5').page).toBe(1);
});
