import { expect, test } from 'vitest';
import { bodyOf, check, empty, faultsNow, refusalOf, type Values } from './start-request.ts';

const values = (changes: Partial<Values>): Values => ({ ...empty, ...changes });

test('what is left empty is left to the pool', () => {
  expect(bodyOf(values({ display: 'pool' }))).toEqual({});
});

test('the display is said by the two fields of the API', () => {
  expect(bodyOf(values({ display: 'headless' }))).toEqual({ headless: true });
  expect(bodyOf(values({ display: 'headful' }))).toEqual({ headless: false });
  expect(bodyOf(values({ display: 'live-view' }))).toEqual({ vnc: true });
});

test('everything that is filled in is asked for', () => {
  const all = values({
    worker: 'camoufox',
    start_url: ' example.org ',
    start_url_wait: 'none',
    idle_ttl_seconds: '60',
    max_lifetime_seconds: ' 3600 ',
    labels: 'team = blue\n\nquery=a=b\nnone=',
  });
  expect(check(all)).toEqual({});
  expect(bodyOf(all)).toEqual({
    worker: 'camoufox',
    vnc: true,
    start_url: 'example.org',
    start_url_wait: 'none',
    idle_ttl_seconds: 60,
    max_lifetime_seconds: 3600,
    labels: { team: 'blue', query: 'a=b', none: '' },
  });
});

test('numbers and labels are checked before anybody is asked', () => {
  expect(Object.keys(check(values({ idle_ttl_seconds: '29', max_lifetime_seconds: '1e3', labels: 'x' })))).toEqual([
    'idle_ttl_seconds',
    'max_lifetime_seconds',
    'labels',
  ]);
  expect(check(values({ idle_ttl_seconds: '86400', max_lifetime_seconds: '604800' }))).toEqual({});
  expect(check(values({ max_lifetime_seconds: '604801' }))).not.toEqual({});
  expect(check(values({ labels: 'a=1\na=2' })).labels).toContain('twice');
});

test('the words of a 422 go to their fields, the rest stands above', () => {
  const refusal = refusalOf(empty, [
    { loc: ['body', 'start_url'], msg: 'no URL', type: 'url' },
    { loc: ['body', 'labels', 'team'], msg: 'too long', type: 'length' },
    { loc: ['body', 'headless'], msg: 'not here', type: 'x' },
    { loc: ['body', 'other'], msg: 'unknown', type: 'x' },
  ]);
  expect(refusal.faults).toEqual({ start_url: 'no URL', labels: 'team: too long', display: 'not here' });
  expect(refusal.others).toEqual(['body.other: unknown']);
});

test('a fault stays until its own field is mended, and is back with the same value', () => {
  const refused = values({ start_url: 'ftp://x', worker: 'none' });
  const refusal = refusalOf(refused, [
    { loc: ['body', 'start_url'], msg: 'no URL', type: 'url' },
    { loc: ['body', 'worker'], msg: 'no pool', type: 'x' },
  ]);
  expect(faultsNow({ ...refused, labels: 'a=b' }, refusal)).toEqual({ start_url: 'no URL', worker: 'no pool' });
  expect(faultsNow({ ...refused, start_url: 'https://x' }, refusal)).toEqual({ worker: 'no pool' });
  expect(faultsNow(refused, refusal)).toEqual({ start_url: 'no URL', worker: 'no pool' });
});
