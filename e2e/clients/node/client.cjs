// A scriptable Playwright client. Each line on stdin is a JSON string with the body of an async function. Each line on
// stdout is {"value": …} with the function's result, or {"error": …} with its error. The code can use the globals
// `playwright`, `fs`, `endpoint`, `options` (with the token) and `site`, and stores values for later calls in globals.
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

/**
 * Connects and asks for the initial page. Sets `browser`, `context` (the default context), `page` (its first page) and
 * `disconnected`. `query`: further parameters of the URL.
 */
globalThis.connect = async (query = '') => {
  globalThis.browser = await playwright.firefox.connect(`${endpoint}?page=open${query}`, options);
  globalThis.disconnected = new Promise((resolve) => browser.once('disconnected', () => resolve(true)));
  globalThis.context = browser.contexts()[0];
  globalThis.page = context.pages()[0];
};

/** Calls `connect` until the gateway is available, and returns its result. */
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
    let response;
    try {
      response = { value: (await new AsyncFunction(JSON.parse(line))()) ?? null };
    } catch (error) {
      response = { error: error.stack ?? String(error) };
    }
    process.stdout.write(JSON.stringify(response) + '\n');
  }
  process.exit(0);
}

main();
