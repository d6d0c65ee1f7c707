import { expect, test } from 'vitest';
import { grantedScope, offeredSubprotocols, parseRetryAfter } from './vnc-endpoint.ts';

test('offers the scopes in order of preference, and the token', () => {
  expect(offeredSubprotocols('view', null)).toEqual(['camofleet.view']);
  expect(offeredSubprotocols('control', 'a.b-c')).toEqual([
    'camofleet.control',
    'camofleet.view',
    'camofleet.bearer.a.b-c',
  ]);
});

test('no selected subprotocol grants no control', () => {
  expect(['camofleet.control', 'camofleet.view', ''].map(grantedScope)).toEqual(['control', 'view', 'view']);
});

test('parses Retry-After in seconds only', () => {
  expect(['7', null, 'Wed, 21 Oct 2026 07:28:00 GMT', '-1'].map(parseRetryAfter)).toEqual([7, null, null, null]);
});
