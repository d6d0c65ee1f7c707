// A Playwright client that is told what to do: each line on stdin is a JSON string of JavaScript, the body of an async
// function; each line on stdout is {"value": …} with what it returned, or {"error": …} with how it failed.
// The code finds `playwright`, `fs`, `endpoint`, `options` (with the token) and `site`, and keeps what it needs later in
// globals.
//   node client.cjs <wsEndpoint> <token> <site>
'use strict';

const readline = require('node:readline');

const [endpoint, token, site] = process.argv.slice(2);
Object.assign(globalThis, {
  playwright: require('playwright-core'),
  fs: require('node:fs'),
  endpoint,
  options: { headers: { Authorization: `Bearer ${token}` } },
  site,
});

/** Connects, and keeps the browser and the page that is there. */
globalThis.connect = async () => {
  globalThis.browser = await playwright.firefox.connect(endpoint, options);
  globalThis.disconnected = new Promise((resolve) => browser.once('disconnected', () => resolve(true)));
  globalThis.context = browser.contexts()[0];
  globalThis.page = context.pages()[0];
};

/** What comes of connecting, tried again for as long as the gateway is away. */
globalThis.retryWhileUnavailable = async (connect) => {
  for (;;) {
    try {
      return await connect();
    } catch (error) {
      if (!/ECONNREFUSED|ECONNRESET|503|socket hang up/.test(error)) throw error;
    }
  }
};

const AsyncFunction = (async () => {}).constructor;

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      answer = { value: (await new AsyncFunction(JSON.parse(line))()) ?? null };
    } catch (error) {
      answer = { error: error.stack ?? String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
  process.exit(0);
}

main();
