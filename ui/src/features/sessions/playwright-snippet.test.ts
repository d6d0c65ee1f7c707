import { expect, test } from 'vitest';
import { playwrightSnippet } from './playwright-snippet.ts';

test('the snippet is JavaScript that calls connect with the URL and the token', async () => {
  const calls: unknown[][] = [];
  const firefox = { connect: async (...given: unknown[]) => calls.push(given) };
  const url = "ws://fleet.example/it's/a\\b";
  const load = async (name: string) => (name === 'playwright-core' ? { firefox } : {});
  const snippet = playwrightSnippet(url, 'a.b.c').replace('import(', 'load(');
  await new Function('load', `return (async () => { ${snippet} })()`)(load);
  expect(calls).toEqual([[`${url}?page=open`, { headers: { Authorization: 'Bearer a.b.c' } }]]);
});
