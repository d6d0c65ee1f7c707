import { expect, test } from 'vitest';
import { grantedScope, offeredSubprotocols, parseRetryAfter } from './vnc-endpoint.ts';

test('the offered subprotocols say what is asked for, in order, and carry the token', () => {
  expect(offeredSubprotocols('view', null)).toEqual(['camofleet.view']);
  expect(offeredSubprotocols('control', 'a.b-c')).toEqual([
    'camofleet.control',
    'camofleet.view',
    'camofleet.bearer.a.b-c',
  ]);
});

test('a gateway that selects nothing has granted no control', () => {
  expect(['camofleet.control', 'camofleet.view', ''].map(grantedScope)).toEqual(['control', 'view', 'view']);
});

test('Retry-After in seconds', () => {
  expect(['7', null, 'Wed, 21 Oct 2026 07:28:00 GMT', '-1'].map(parseRetryAfter)).toEqual([7, null, null, null]);
});
