import { expect, test } from 'vitest';
import { parseViewUrl } from './view-url.ts';

test('reads namespace and name from the path, and the token from the fragment', () => {
  expect(parseViewUrl(new URL('https://fleet.example/view/team-a/demo#token=a.b_c'))).toEqual({
    namespace: 'team-a',
    name: 'demo',
    token: 'a.b_c',
    scope: 'view',
    embedded: false,
  });
});

test('reads control and embed from the query, but no token', () => {
  expect(parseViewUrl(new URL('https://fleet.example/view/a/b?embed=1&control=1&token=x'))).toMatchObject({
    token: null,
    scope: 'control',
    embedded: true,
  });
});
