import { expect, test } from 'vitest';
import { permittedScope } from './session-token.ts';

/** A JWT with these claims and no valid signature. `?>` makes the base64url encoding contain `_` and `-`. */
function jwt(claims: Readonly<Record<string, string>>): string {
  const payload = Buffer.from(JSON.stringify({ ...claims, padding: '??>>~~' })).toString('base64url');
  return `header.${payload}.signature`;
}

test('a session token with the scope view permits no control', () => {
  expect(jwt({ role: 'view' })).toMatch(/[_-]/);
  expect(permittedScope(jwt({ role: 'view' }))).toBe('view');
  expect(permittedScope(jwt({ role: 'control' }))).toBe('control');
});

test('any other credential may permit control', () => {
  const tokens = [null, '', 'static-token', 'a.b.c', 'a.bnVsbA.c', jwt({ sub: 'uid' })];
  expect(tokens.map(permittedScope)).toEqual(tokens.map(() => 'control'));
});
