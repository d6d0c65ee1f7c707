// The browser of one session behind a Playwright server on a unix socket.
//
// What is used here beyond Playwright's documented interface, all of it in the pinned version and covered by the runner's
// tests: `_userDataDir` and `_sharedBrowser` of launchServer (clients see the browser's own context and its page), a path
// as `port` (no TCP listener, which every page could reach), and the server's side of the browser, for the start page,
// the ping and the grace (contexts.js).
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { firefox } = require('playwright-core');
const { remote, server: { nullProgress } } = require('playwright-core/lib/coreBundle');
const { manageContexts } = require('./contexts');

const LAUNCH_TIMEOUT_MS = 60_000;
const START_PAGE_TIMEOUT_MS = 60_000;
/** Lines of the browser's own output that go with the report of its end. */
const OUTPUT_LINES = 8;
/** Camoufox reads its configuration from environment variables of at most so many characters each. */
const CAMOU_CONFIG_CHUNK = 32_767;
/**
 * What of a profile any other may begin with: compiled scripts, and what Firefox found out about its own parts. A launch
 * with it takes a third less time. It knows nobody: no ids, keys, cookies or databases.
 */
const TEMPLATE = [
  'startupCache',
  'compatibility.ini',
  'addonStartup.json.lz4',
  'extensions.json',
  'extension-preferences.json',
];
/** The longest message that is taken from a client, as Playwright's clients take it; its server would take 100 MiB. */
const MAX_PAYLOAD = 256 << 20;

const PREFS = {
  // HTTPS resource records send Firefox to HTTP/3 where UDP is closed, seen by users as PR_END_OF_FILE_ERROR.
  'network.dns.use_https_rr_as_altsvc': false,
  'network.http.http3.enable': false,
  // Clusters are mostly without IPv6 to the outside, and a first try by it costs a time-out.
  'network.dns.disableIPv6': true,
  // WebRTC shows the pod's own addresses and goes past any proxy.
  'media.peerconnection.enabled': false,
  // Studies are asked for over the network at start; nobody here takes part.
  'app.normandy.enabled': false,
  'app.shield.optoutstudies.enabled': false,
  'nimbus.rollouts.enabled': false,
  // No page of the vendor's before the session's own.
  'browser.aboutwelcome.enabled': false,
  'browser.preonboarding.enabled': false,
  'browser.startup.page': 0,
  'termsofuse.bypassNotification': true,
};

/**
 * What the runner sends as its first line:
 * `engine` Camoufox or Firefox, `executable`, `dir` (of the session: profile and socket are made in it), `wsPath` (the one
 * secret of the server), `headless`, `screen` {width, height}, `graceMs`, and optionally `template` (directory that the
 * profile begins as, see template.js), `proxy` (as Playwright takes it) and `camoufoxConfig` (properties of the fingerprint).
 */
function launchOptions({ engine, executable, dir, wsPath, headless, screen, proxy, camoufoxConfig }) {
  // There is no accessibility bus here: not asking for it spares an error at each start.
  // A template made by a newer browser than this one is no reason to refuse the profile: Firefox makes its parts anew.
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
    // With a channel of this kind Playwright speaks WebDriver BiDi, as stock Firefox does; without, Juggler, as Camoufox.
    ...(engine === 'Firefox' && { channel: 'moz-firefox' }),
    executablePath: executable,
    headless,
    firefoxUserPrefs: PREFS,
    ...(proxy && { proxy }),
    env,
    port: path.join(dir, 'pw.sock'),
    wsPath,
    // The page is as large as the window that the viewer sees.
    noDefaultViewport: true,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    timeout: LAUNCH_TIMEOUT_MS,
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
 * Makes a fresh profile, which begins as the template does when there is one. Its first window fills the screen: nothing else on
 * the display would size it, and `--width=1280` makes Firefox also open 1280 as the address 0.0.5.0.
 */
function makeProfile(dir, { width, height }, template) {
  fs.mkdirSync(dir, { mode: 0o700 });
  // Firefox compares the times of these files with what it wrote down in them.
  if (template) fs.cpSync(template, dir, { recursive: true, preserveTimestamps: true });
  const window = { screenX: '0', screenY: '0', width: String(width), height: String(height), sizemode: 'normal' };
  const store = { 'chrome://browser/content/browser.xhtml': { 'main-window': window } };
  fs.writeFileSync(path.join(dir, 'xulstore.json'), JSON.stringify(store));
}

/** launchServer, and the server object that it makes inside and does not hand out. */
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
    // The `ws` server reads its options anew for each connection.
    server._wsServer._wsServer.options.maxPayload = MAX_PAYLOAD;
    return { browserServer, server };
  } finally {
    prototype.listen = listen;
  }
}

/**
 * A launch error in few words. Playwright's own message repeats the whole log; what people need of it is the first line,
 * how the process ended, and the last lines of what it said.
 */
function launchError(error) {
  const lines = error.message.split('\n');
  const exit = lines.find((line) => line.includes('<process did exit'))?.match(/<(process did exit: [^>]*)>/)?.[1];
  return new Error([lines[0].slice(0, 300), exit, ...processOutput(lines)].filter(Boolean).join('\n'));
}

/** The last lines that the process itself wrote, from a log of Playwright's. What Firefox calls information is none here. */
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

  /** Opens a page in the tab that client and viewer see first. */
  async open(url, waitUntil) {
    const page = await this._contexts.initialPage();
    const timeout = new Promise((_, reject) => {
      const message = `${url} did not reach "${waitUntil}" within ${START_PAGE_TIMEOUT_MS / 1000} s`;
      setTimeout(reject, START_PAGE_TIMEOUT_MS, new Error(message)).unref();
    });
    try {
      await Promise.race([page.mainFrame().goto(nullProgress, url, { waitUntil }), timeout]);
    } catch (error) {
      // Over BiDi the first line only says "unknown error", and the second has the cause.
      const cause = error.message.match(/Message: Error: (.*)/)?.[1] ?? error.message.split('\n')[0];
      throw new Error(cause.slice(0, 300));
    }
  }

  /** Resolves when the page's own process has computed something: parent process and content process both live. */
  async ping() {
    const page = await this._contexts.initialPage();
    await page.mainFrame().evaluateExpression(nullProgress, '1 + 1', { world: 'utility' });
  }

  /** Calls back once when the browser has ended, for whatever reason. */
  onExit(callback) {
    this._browserServer.on('close', (code, signal) => {
      const output = processOutput(this._browser.options.browserLogsCollector.recentLogs());
      callback({ code, signal, lastWords: output });
    });
  }

  /** Resolves when every client's connection is closed. */
  disconnectClients() {
    return this._server.close();
  }

  /** Ends the browser, which is over when `onExit` calls. By force: what it would still write is thrown away. */
  close() {
    return this._browserServer.kill();
  }

  /** Ends the browser as a person would, with all written that it writes. */
  quit() {
    return this._browserServer.close();
  }
}

module.exports = { Browser, TEMPLATE };
