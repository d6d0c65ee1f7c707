import { expect, test } from 'vitest';
import { parseViewUrl } from './view-url.ts';

test('namespace and name are of the path, the token of the fragment', () => {
  expect(parseViewUrl(new URL('https://fleet.example/view/team-a/demo#token=a.b_c'))).toEqual({
    namespace: 'team-a',
    name: 'demo',
    token: 'a.b_c',
    scope: 'view',
    embedded: false,
  });
});

test('the query asks for control and for no chrome, but never carries a token', () => {
  expect(parseViewUrl(new URL('https://fleet.example/view/a/b?embed=1&control=1&token=x'))).toMatchObject({
    token: null,
    scope: 'control',
    embedded: true,
  });
});
