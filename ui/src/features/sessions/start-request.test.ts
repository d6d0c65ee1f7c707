import { expect, test } from 'vitest';
import { currentErrors, emptyForm, type FormValues, toRejection, toRequest, validate } from './start-request.ts';

const values = (changes: Partial<FormValues>): FormValues => ({ ...emptyForm, ...changes });

test('leaves empty fields to the pool', () => {
  expect(toRequest(values({ display: 'pool' }))).toEqual({});
});

test('converts the display to the two fields of the API', () => {
  expect(toRequest(values({ display: 'headless' }))).toEqual({ headless: true });
  expect(toRequest(values({ display: 'headful' }))).toEqual({ headless: false });
  expect(toRequest(values({ display: 'live-view' }))).toEqual({ vnc: true });
});

test('requests every value', () => {
  const all = values({
    pool: 'camoufox',
    start_url: ' example.org ',
    start_url_wait: 'none',
    idle_ttl_seconds: '60',
    max_lifetime_seconds: ' 3600 ',
    labels: 'team = blue\n\nquery=a=b\nnone=',
  });
  expect(validate(all)).toEqual({});
  expect(toRequest(all)).toEqual({
    worker: 'camoufox',
    vnc: true,
    start_url: 'example.org',
    start_url_wait: 'none',
    idle_ttl_seconds: 60,
    max_lifetime_seconds: 3600,
    labels: { team: 'blue', query: 'a=b', none: '' },
  });
});

test('validates numbers and labels', () => {
  expect(Object.keys(validate(values({ idle_ttl_seconds: '29', max_lifetime_seconds: '1e3', labels: 'x' })))).toEqual([
    'idle_ttl_seconds',
    'max_lifetime_seconds',
    'labels',
  ]);
  expect(validate(values({ idle_ttl_seconds: '86400', max_lifetime_seconds: '604800' }))).toEqual({});
  expect(validate(values({ max_lifetime_seconds: '604801' }))).not.toEqual({});
  expect(validate(values({ labels: 'a=1\na=2' })).labels).toContain('twice');
});

test('assigns the errors of a 422 to fields, and keeps the others apart', () => {
  const rejection = toRejection(emptyForm, [
    { loc: ['body', 'start_url'], msg: 'no URL', type: 'url' },
    { loc: ['body', 'labels', 'team'], msg: 'too long', type: 'length' },
    { loc: ['body', 'headless'], msg: 'not here', type: 'x' },
    { loc: ['body', 'other'], msg: 'unknown', type: 'x' },
  ]);
  expect(rejection.errors).toEqual({ start_url: 'no URL', labels: 'team: too long', display: 'not here' });
  expect(rejection.otherErrors).toEqual(['body.other: unknown']);
});

test('an error stays until its field changes, and returns with the rejected value', () => {
  const refused = values({ start_url: 'ftp://x', pool: 'none' });
  const rejection = toRejection(refused, [
    { loc: ['body', 'start_url'], msg: 'no URL', type: 'url' },
    { loc: ['body', 'worker'], msg: 'no pool', type: 'x' },
  ]);
  expect(currentErrors({ ...refused, labels: 'a=b' }, rejection)).toEqual({ start_url: 'no URL', pool: 'no pool' });
  expect(currentErrors({ ...refused, start_url: 'https://x' }, rejection)).toEqual({ pool: 'no pool' });
  expect(currentErrors(refused, rejection)).toEqual({ start_url: 'no URL', pool: 'no pool' });
});
