// Launches a session's browser behind a Playwright server on a Unix socket.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { Clients } = require('./clients');
const { load } = require('./playwright-1.62');

const START_PAGE_TIMEOUT_MS = 60_000;
/** How long after the end of its connection an exited browser is reported as such. */
const EXIT_REPORT_MS = 1_000;
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
 * `screen` {width, height}, and optionally `template` (directory that is copied into the profile, see
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
  if (engine === 'Firefox') env.CAMOFLEET_FIREFOX = executable;
  if (engine === 'Camoufox') Object.assign(env, camoufoxEnvironment(camoufoxConfig ?? {}));
  return {
    // This channel makes Playwright use WebDriver BiDi, which stock Firefox speaks. Camoufox speaks Juggler, the
    // default.
    ...(engine === 'Firefox' && { channel: 'moz-firefox' }),
    executablePath: engine === 'Firefox' ? path.join(__dirname, 'firefox.sh') : executable,
    headless,
    firefoxUserPrefs: PREFS,
    ...(proxy && { proxy }),
    env,
    socket: path.join(dir, 'pw.sock'),
    profile: path.join(dir, 'profile'),
    wsPath,
    // Pages are as large as the window that live-view clients see.
    noDefaultViewport: true,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
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

/**
 * Reads what a client asks for from the headers that the runner sends: `x-camofleet-page` (open, new or none) and
 * `x-camofleet-client` (a name). The gateway has validated both.
 */
function clientRequest(headers) {
  return { page: headers['x-camofleet-page'], name: headers['x-camofleet-client'] };
}

/** Headers of the response to a client, from which the runner logs whether the client is shown the start page. */
function startPageHeaders(shows) {
  return shows === undefined ? [] : [`x-camofleet-start-page: ${shows ? 'shown' : 'not-shown'}`];
}

class Browser {
  static async launch(request) {
    makeProfile(path.join(request.dir, 'profile'), request.screen, request.template);
    try {
      return new Browser(await load().launch(launchOptions(request)));
    } catch (error) {
      throw launchError(error);
    }
  }

  constructor(server) {
    this._server = server;
    this._clients = new Clients(server);
    server.serve({
      admit: (headers) => this._clients.admit(clientRequest(headers)),
      responseHeaders: (headers) => startPageHeaders(this._clients.showsStartPage(clientRequest(headers))),
      connected: (connection, headers) => this._clients.connect(connection, clientRequest(headers)),
    });
    this.version = server.version;
    this.pid = server.pid;
  }

  /** Assigns the browser to a session. `graceMs`: how long the contexts of its lost clients are kept. */
  bind({ graceMs }) {
    this._clients.setGrace(graceMs);
  }

  /** Opens the start URL in the initial page. */
  async open(url, waitUntil) {
    this._clients.startPageOpened();
    const timeout = new Promise((_, reject) => {
      const message = `${url} did not reach "${waitUntil}" within ${START_PAGE_TIMEOUT_MS / 1000} s`;
      setTimeout(reject, START_PAGE_TIMEOUT_MS, new Error(message)).unref();
    });
    try {
      await Promise.race([this._server.defaultContext.open(url, waitUntil), timeout]);
    } catch (error) {
      // Over BiDi the first line is only "unknown error", and the second contains the cause.
      const cause = error.message.match(/Message: Error: (.*)/)?.[1] ?? error.message.split('\n')[0];
      throw new Error(cause.slice(0, 300));
    }
  }

  /** Resolves once both the parent and the content process of the initial page have responded. */
  ping() {
    return this._server.defaultContext.ping();
  }

  /** Whether a client waits for a response or an event, or a download grows. */
  isBusy() {
    return this._server.isBusy();
  }

  /** Calls back once, when the browser has exited for any reason. */
  onExit(callback) {
    let [exited, lost] = [false, false];
    this._server.onLost(() => {
      // An exit closes the connection, too, before it is reported.
      setTimeout(() => {
        if (exited) return;
        lost = true;
        this._server.kill();
      }, EXIT_REPORT_MS);
    });
    this._server.onExit(({ code, signal, log }) => {
      exited = true;
      callback({ code, signal, lost, output: processOutput(log) });
    });
  }

  /** Closes all client connections. Resolves once they are closed. */
  disconnectClients() {
    return this._server.disconnectClients();
  }

  /** Kills the browser. A clean exit would only write data that is discarded with the profile. See `onExit`. */
  close() {
    return this._server.kill();
  }

  /** Quits the browser cleanly, so that it writes its profile to disk. */
  quit() {
    return this._server.quit();
  }
}

module.exports = { Browser, TEMPLATE };
