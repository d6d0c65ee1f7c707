import { expect, test } from 'vitest';
import { granted, offers, secondsOf } from './vnc-endpoint.ts';

test('the offered subprotocols say what is asked for, in order, and carry the token', () => {
  expect(offers('view', null)).toEqual(['camofleet.view']);
  expect(offers('control', 'a.b-c')).toEqual(['camofleet.control', 'camofleet.view', 'camofleet.bearer.a.b-c']);
});

test('a gateway that selects nothing has granted no control', () => {
  expect(['camofleet.control', 'camofleet.view', ''].map(granted)).toEqual(['control', 'view', 'view']);
});

test('Retry-After in seconds', () => {
  expect(['7', null, 'Wed, 21 Oct 2026 07:28:00 GMT', '-1'].map(secondsOf)).toEqual([7, null, null, null]);
});
