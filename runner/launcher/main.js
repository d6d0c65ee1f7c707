#!/usr/bin/env node
// One Playwright server and its browser, for one session. The runner drives it by lines of JSON.
//
// The first line on stdin is the launch (see `launchOptions` in browser.js); each further line is a command:
//   {"command":"open","url":U,"waitUntil":W}  -> {"event":"startPage","error":null | words}
//   {"command":"ping"}                        -> {"event":"pong"} once the browser itself has answered
// Events that come unasked:
//   {"event":"ready","version":V,"browserPid":P}
//   {"event":"failed","message":M}            the launch failed; the process ends
//   {"event":"exited","code":C,"signal":S,"lastWords":[...]}  the browser ended by itself; the process ends
// SIGTERM, or the end of stdin, closes the browser and ends the process; connected clients are told by a Close frame.
'use strict';

const readline = require('node:readline');
const { Browser } = require('./browser');

const send = (event) => process.stdout.write(JSON.stringify(event) + '\n');

/** How long clients' Close frames may take to be written. A client that does not read must not hold the slot. */
const CLOSE_FRAME_TIMEOUT_MS = 500;

async function main() {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const first = await lines.next();
  if (first.done) return;
  let browser;
  try {
    browser = await Browser.launch(JSON.parse(first.value));
  } catch (error) {
    send({ event: 'failed', message: String(error.message) });
    process.exitCode = 1;
    return;
  }

  let closing = false;
  const close = async () => {
    closing = true;
    await browser.close();
  };
  process.on('SIGTERM', close);
  browser.onExit(async (exit) => {
    if (!closing) send({ event: 'exited', ...exit });
    await Promise.race([browser.disconnectClients(), new Promise((resolve) => setTimeout(resolve, CLOSE_FRAME_TIMEOUT_MS))]);
    process.exit(0);
  });
  send({ event: 'ready', version: browser.version, browserPid: browser.pid });

  for await (const line of lines) runCommand(browser, JSON.parse(line));
  await close();
}

/** Starts what a command asks for. Commands do not wait for each other: a slow page must not delay a ping. */
function runCommand(browser, command) {
  switch (command.command) {
    case 'open':
      browser.open(command.url, command.waitUntil).then(
        () => send({ event: 'startPage', error: null }),
        (error) => send({ event: 'startPage', error: error.message }),
      );
      return;
    case 'ping':
      // A browser that fails to answer says nothing: the runner counts the silence.
      browser.ping().then(() => send({ event: 'pong' }), () => {});
      return;
    default:
      throw new Error(`unknown command ${JSON.stringify(command)}`);
  }
}

main().then(
  () => process.exitCode && process.exit(),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exit(70);
  },
);
