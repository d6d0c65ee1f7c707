import { expect, test } from 'vitest';
import { playwrightLine } from './playwright.ts';

test('the line is JavaScript that calls connect with the address and the token', async () => {
  const calls: unknown[][] = [];
  const firefox = { connect: async (...given: unknown[]) => calls.push(given) };
  const url = "ws://fleet.example/it's/a\\b";
  const run = new Function('firefox', `return (async () => { ${playwrightLine(url, 'a.b.c')} })()`);
  await run(firefox);
  expect(calls).toEqual([[url, { headers: { Authorization: 'Bearer a.b.c' } }]]);
});
