// A client of Playwright MCP: starts its server as a process, and calls its tools (JSON-RPC over stdio).
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const { endpoint, headers } = require('./judge.cjs');

/** Longest time of a call, in milliseconds. */
const DEADLINE = 60_000;

class McpClient {
  /** Starts a server that connects to the Playwright server when a tool first needs the browser. */
  static async start(folder) {
    const client = new McpClient(folder);
    await client._request('initialize', {
      protocolVersion: '2025-06-18',
      capabilities: {},
      clientInfo: { name: 'judges', version: '1.0.0' },
    });
    client._send({ method: 'notifications/initialized' });
    return client;
  }

  /** `folder`: the server's working folder, which contains the files that it reads and writes. */
  constructor(folder) {
    this.folder = folder;
    this._pending = new Map();
    this._lastId = 0;
    const config = path.join(folder, 'config.json');
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(
      config,
      JSON.stringify({
        browser: {
          browserName: 'firefox',
          remoteEndpoint: endpoint,
          remoteHeaders: headers,
          contextOptions: { ignoreHTTPSErrors: true },
        },
        capabilities: ['core', 'network', 'storage', 'testing'],
        outputDir: folder,
      }),
      { mode: 0o600 },
    );
    const program = path.join(path.dirname(require.resolve('@playwright/mcp/package.json')), 'cli.js');
    this._process = spawn(process.execPath, [program, '--config', config], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this._exited = new Promise((resolve) => this._process.once('exit', resolve));
    this._exited.then(() => {
      for (const { reject } of this._pending.values()) reject(new Error('the MCP server exited'));
    });
    this._process.stdin.on('error', () => {});
    readline.createInterface({ input: this._process.stdout }).on('line', (line) => this._receive(JSON.parse(line)));
  }

  _receive({ id, method, result, error }) {
    // The server's own requests, such as pings, are answered with an empty result.
    if (method) {
      if (id !== undefined) this._send({ id, result: {} });
      return;
    }
    const call = this._pending.get(id);
    this._pending.delete(id);
    if (error) call?.reject(new Error(error.message));
    else call?.resolve(result);
  }

  _send(message) {
    this._process.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
  }

  async _request(method, params) {
    const id = ++this._lastId;
    let timer;
    const response = new Promise((resolve, reject) => {
      this._pending.set(id, { resolve, reject });
      timer = setTimeout(() => reject(new Error(`no response to ${method} ${params?.name ?? ''}`)), DEADLINE);
    });
    this._send({ id, method, params });
    return response.finally(() => clearTimeout(timer));
  }

  /** The names of the tools. */
  async tools() {
    return (await this._request('tools/list', {})).tools.map(({ name }) => name);
  }

  /** Calls a tool without its prefix `browser_`. Returns `text`, `images` (base64) and `isError` of the result. */
  async tryCall(tool, args = {}) {
    const { content, isError = false } = await this._request('tools/call', { name: `browser_${tool}`, arguments: args });
    const text = content.filter(({ type }) => type === 'text').map((item) => item.text).join('\n');
    return { text, isError, images: content.filter(({ type }) => type === 'image').map(({ data }) => data) };
  }

  /** Calls a tool and returns the text of its result. Throws if the tool failed. */
  async call(tool, args) {
    const { text, isError } = await this.tryCall(tool, args);
    if (isError) throw new Error(`browser_${tool} failed: ${text}`);
    return text;
  }

  /** The value of a function in the page. */
  async evaluate(code, target) {
    const text = await this.call('evaluate', { function: code, ...(target && { target, element: 'an element' }) });
    return JSON.parse(section(text, 'Result'));
  }

  /** The value of `async (page) => {…}`, run by the server. */
  async runCode(code) {
    return JSON.parse(section(await this.call('run_code_unsafe', { code }), 'Result'));
  }

  /** The reference of the element whose line in the page's snapshot contains `line`. */
  async reference(line) {
    const snapshot = await this.call('snapshot');
    const found = snapshot.split('\n').find((text) => text.includes(line));
    const reference = /\[ref=(\w+)\]/.exec(found ?? '')?.[1];
    if (!reference) throw new Error(`no element ${line} in the snapshot:\n${snapshot}`);
    return reference;
  }

  /** Ends the server, which closes its contexts. */
  async close() {
    this._process.stdin.end();
    const timer = setTimeout(() => this._process.kill('SIGKILL'), 10_000);
    await this._exited;
    clearTimeout(timer);
  }
}

/** The section `### title` of a result. */
function section(text, title) {
  const found = text.split(/^### /m).find((part) => part.startsWith(`${title}\n`));
  if (found === undefined) throw new Error(`no section ${title} in the result:\n${text}`);
  return found.slice(title.length + 1).trim();
}

module.exports = { McpClient, section };
