#!/usr/bin/env node
// Runs one Playwright server and its browser for one session. The runner controls it with JSON lines.
//
// The first line on stdin is the launch request (see `launchOptions` in browser.js). Each further line is a command:
//   {"command":"open","url":U,"waitUntil":W}  -> {"event":"pageFinished","error":null | message}
//   {"command":"ping"}                        -> {"event":"pong"} once the browser itself has responded
//   {"command":"bind","graceMs":G}            the browser serves a session from now on (see `Browser.bind`)
// Further events on stdout:
//   {"event":"ready","version":V,"browserPid":P}
//   {"event":"failed","message":M}            the launch failed; the process exits
//   {"event":"active"}                        a client waits (see `Browser.isBusy`); every few seconds
//   {"event":"exited","code":C,"signal":S,"lost":L,"output":[...]}
//                                             the browser exited unexpectedly, after these lines, or was killed because
//                                             Playwright had lost its connection to it (`lost`); the process exits
// On SIGTERM or at the end of stdin, the launcher kills the browser, sends Close frames to connected clients and exits.
'use strict';

const readline = require('node:readline');
const { Browser } = require('./browser');

const send = (event) => process.stdout.write(JSON.stringify(event) + '\n');

/** Time limit for sending Close frames, so that a client that does not read cannot keep the slot occupied. */
const CLOSE_FRAME_TIMEOUT_MS = 500;
/** How often activity is reported. The shortest idle timeout of a session is several times as long. */
const ACTIVITY_INTERVAL_MS = 5_000;

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
  setInterval(() => browser.isBusy() && send({ event: 'active' }), ACTIVITY_INTERVAL_MS).unref();

  for await (const line of lines) runCommand(browser, JSON.parse(line));
  await close();
}

/** Starts a command. Commands run concurrently, because a slow page must not delay a ping. */
function runCommand(browser, command) {
  switch (command.command) {
    case 'open':
      browser.open(command.url, command.waitUntil).then(
        () => send({ event: 'pageFinished', error: null }),
        (error) => send({ event: 'pageFinished', error: error.message }),
      );
      return;
    case 'bind':
      browser.bind(command);
      return;
    case 'ping':
      // A failed ping has no event: the runner's own timeout detects an unresponsive browser.
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
