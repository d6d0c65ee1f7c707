// Launches a session's browser behind a Playwright server on a Unix socket.
//
// This module uses some of Playwright's internals. All of them exist in the pinned version, and the runner's tests
// cover them: `_userDataDir` and `_sharedBrowser` of launchServer (clients see the default context and its page), a
// path as `port` (no TCP listener, which every page could reach), and the server-side browser object, for the start
// page, pings and contexts.js.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { firefox } = require('playwright-core');
const { remote, server: { nullProgress } } = require('playwright-core/lib/coreBundle');
const { manageContexts } = require('./contexts');

const START_PAGE_TIMEOUT_MS = 60_000;
/** Lines of the browser's output in its exit report. */
const OUTPUT_LINES = 8;
/** Maximum length of each environment variable that Camoufox reads its configuration from, in characters. */
const CAMOU_CONFIG_CHUNK = 32_767;
/**
 * The files of a profile that new profiles can start with: compiled scripts, and what Firefox has detected about its
 * own components. They make a launch a third faster and identify neither user nor browser: no ids, keys, cookies or
 * databases.
 */
const TEMPLATE = [
  'startupCache',
  'compatibility.ini',
  'addonStartup.json.lz4',
  'extensions.json',
  'extension-preferences.json',
];
/** Largest message from a client, in bytes. Playwright's clients accept as much; its server's default is 100 MiB. */
const MAX_PAYLOAD = 256 << 20;

const PREFS = {
  // HTTPS resource records make Firefox try HTTP/3 where UDP is blocked, which users see as PR_END_OF_FILE_ERROR.
  'network.dns.use_https_rr_as_altsvc': false,
  'network.http.http3.enable': false,
  // Most clusters have no outbound IPv6, and a first attempt over it costs a timeout.
  'network.dns.disableIPv6': true,
  // WebRTC reveals the pod's addresses and bypasses proxies.
  'media.peerconnection.enabled': false,
  // Studies cost a network request at startup, and sessions never take part in them.
  'app.normandy.enabled': false,
  'app.shield.optoutstudies.enabled': false,
  'nimbus.rollouts.enabled': false,
  // No vendor pages before the start page.
  'browser.aboutwelcome.enabled': false,
  'browser.preonboarding.enabled': false,
  'browser.startup.page': 0,
  'termsofuse.bypassNotification': true,
};

/**
 * Builds Playwright's options from the launch request, the runner's first line: `engine` (Camoufox or Firefox),
 * `executable`, `dir` (of the session, for its profile and socket), `wsPath` (the server's secret path), `headless`,
 * `screen` {width, height}, `graceMs`, and optionally `template` (directory that is copied into the profile, see
 * template.js), `proxy` (in Playwright's format) and `camoufoxConfig` (properties of the fingerprint).
 */
function launchOptions({ engine, executable, dir, wsPath, headless, screen, proxy, camoufoxConfig }) {
  // GNOME_ACCESSIBILITY: without an accessibility bus, the attempt to connect to it logs an error at each start.
  // MOZ_ALLOW_DOWNGRADE: accepts a template from a newer browser. Firefox regenerates the files that do not match.
  const env = { ...process.env, MOZ_DISABLE_HTTP3: '1', GNOME_ACCESSIBILITY: '0', MOZ_ALLOW_DOWNGRADE: '1' };
  if (headless) {
    env.MOZ_HEADLESS_WIDTH = String(screen.width);
    env.MOZ_HEADLESS_HEIGHT = String(screen.height);
  } else {
    env.MOZ_ENABLE_WAYLAND = '0';
    env.GDK_BACKEND = 'x11';
  }
  if (engine === 'Camoufox') Object.assign(env, camoufoxEnvironment(camoufoxConfig ?? {}));
  return {
    // This channel makes Playwright use WebDriver BiDi, which stock Firefox speaks. Camoufox speaks Juggler, the
    // default.
    ...(engine === 'Firefox' && { channel: 'moz-firefox' }),
    executablePath: executable,
    headless,
    firefoxUserPrefs: PREFS,
    ...(proxy && { proxy }),
    env,
    port: path.join(dir, 'pw.sock'),
    wsPath,
    // Pages are as large as the window that live-view clients see.
    noDefaultViewport: true,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    _userDataDir: path.join(dir, 'profile'),
    _sharedBrowser: true,
  };
}

function camoufoxEnvironment(config) {
  const text = JSON.stringify(config);
  const env = {};
  for (let i = 0; i * CAMOU_CONFIG_CHUNK < text.length; i++) {
    env[`CAMOU_CONFIG_${i + 1}`] = text.slice(i * CAMOU_CONFIG_CHUNK, (i + 1) * CAMOU_CONFIG_CHUNK);
  }
  return env;
}

/**
 * Creates a profile, from the template if there is one. The stored window size makes the first window fill the
 * screen: no window manager would resize it, and `--width=1280` makes Firefox also open 1280 as the address 0.0.5.0.
 */
function makeProfile(dir, { width, height }, template) {
  fs.mkdirSync(dir, { mode: 0o700 });
  // Firefox compares the modification times of these files with the times recorded in them.
  if (template) fs.cpSync(template, dir, { recursive: true, preserveTimestamps: true });
  const window = { screenX: '0', screenY: '0', width: String(width), height: String(height), sizemode: 'normal' };
  const store = { 'chrome://browser/content/browser.xhtml': { 'main-window': window } };
  fs.writeFileSync(path.join(dir, 'xulstore.json'), JSON.stringify(store));
}

/** Calls Playwright's launchServer, and also returns the server object, which launchServer does not expose. */
async function launchServer(options) {
  const prototype = remote.PlaywrightServer.prototype;
  const { listen } = prototype;
  let server;
  prototype.listen = function (...args) {
    server = this;
    return listen.apply(this, args);
  };
  try {
    const browserServer = await firefox.launchServer(options);
    // The `ws` server reads its options for each connection, so the change applies to all clients.
    server._wsServer._wsServer.options.maxPayload = MAX_PAYLOAD;
    return { browserServer, server };
  } finally {
    prototype.listen = listen;
  }
}

/**
 * Shortens a launch error. Playwright's message contains the whole log; the useful parts are its first line, how the
 * process exited, and the last lines of the process's output.
 */
function launchError(error) {
  const lines = error.message.split('\n');
  const exit = lines.find((line) => line.includes('<process did exit'))?.match(/<(process did exit: [^>]*)>/)?.[1];
  return new Error([lines[0].slice(0, 300), exit, ...processOutput(lines)].filter(Boolean).join('\n'));
}

/** Extracts the last lines of the process's output from Playwright's log, without Firefox's informational messages. */
function processOutput(log) {
  const lines = log
    .map((line) => line.match(/\[pid=\d+\]\[(?:err|out)\] (.*)/)?.[1])
    .filter((line) => line && !/^\[INFO |\tINFO\t/.test(line));
  return [...new Set(lines)].slice(-OUTPUT_LINES).map((line) => line.slice(0, 300));
}

class Browser {
  static async launch(request) {
    makeProfile(path.join(request.dir, 'profile'), request.screen, request.template);
    let launched;
    try {
      launched = await launchServer(launchOptions(request));
    } catch (error) {
      throw launchError(error);
    }
    return new Browser(launched, request.graceMs);
  }

  constructor({ browserServer, server }, graceMs) {
    this._browserServer = browserServer;
    this._server = server;
    this._browser = server._options.preLaunchedBrowser;
    this._contexts = manageContexts(server, graceMs);
    this.version = this._browser.version();
    this.pid = browserServer.process().pid;
  }

  /** Opens a URL in the initial page, which Playwright clients and live-view clients see first. */
  async open(url, waitUntil) {
    const page = await this._contexts.initialPage();
    const timeout = new Promise((_, reject) => {
      const message = `${url} did not reach "${waitUntil}" within ${START_PAGE_TIMEOUT_MS / 1000} s`;
      setTimeout(reject, START_PAGE_TIMEOUT_MS, new Error(message)).unref();
    });
    try {
      await Promise.race([page.mainFrame().goto(nullProgress, url, { waitUntil }), timeout]);
    } catch (error) {
      // Over BiDi the first line is only "unknown error", and the second contains the cause.
      const cause = error.message.match(/Message: Error: (.*)/)?.[1] ?? error.message.split('\n')[0];
      throw new Error(cause.slice(0, 300));
    }
  }

  /** Evaluates an expression in the page, which succeeds only if both the parent and the content process respond. */
  async ping() {
    const page = await this._contexts.initialPage();
    await page.mainFrame().evaluateExpression(nullProgress, '1 + 1', { world: 'utility' });
  }

  /** Calls back once, when the browser has exited for any reason. */
  onExit(callback) {
    this._browserServer.on('close', (code, signal) => {
      const output = processOutput(this._browser.options.browserLogsCollector.recentLogs());
      callback({ code, signal, output });
    });
  }

  /** Closes all client connections. Resolves once they are closed. */
  disconnectClients() {
    return this._server.close();
  }

  /** Kills the browser. A clean exit would only write data that is discarded with the profile. See `onExit`. */
  close() {
    return this._browserServer.kill();
  }

  /** Quits the browser cleanly, so that it writes its profile to disk. */
  quit() {
    return this._browserServer.close();
  }
}

module.exports = { Browser, TEMPLATE };
