/** Plays the gateway: serves the built pages with their headers, the API, and a display's RFB by WebSocket, as the real one does. */

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { extname, join } from 'node:path';
import { type WebSocket, WebSocketServer } from 'ws';
import { Api } from './fake-api.ts';

export const token = 'header.payload.signature';

const dist = join(import.meta.dirname, '..', 'dist');

const pageHeaders = {
  'Content-Type': 'text/html; charset=utf-8',
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-cache',
};

const contentTypes: Record<string, string> = {
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.md': 'text/markdown',
};

export interface Refusal {
  readonly status: number;
  readonly detail: string;
  readonly retryAfter?: number;
}

/** One WebSocket of the page. */
export interface Call {
  readonly offered: readonly string[];
  readonly socket: WebSocket;
  /** What the page has sent. */
  readonly received: Buffer[];
  /** Bytes that the display has sent. */
  shown: number;
}

export class Gateway {
  /** The highest role of the token. */
  grants: 'view' | 'control' = 'control';
  /** Instead of a WebSocket. */
  refusal: Refusal | null = null;
  /** When set, nobody at the door is answered before this resolves. */
  hold: Promise<void> | null = null;
  readonly calls: Call[] = [];
  /** How often the page asked why. */
  questions = 0;

  readonly api = new Api();

  readonly #rfbSocket: string;
  readonly #server: Server;
  readonly #sockets = new WebSocketServer({ noServer: true, handleProtocols: (offered) => this.#choose(offered) });
  readonly #connections = new Set<Socket>();

  private constructor(rfbSocket: string) {
    this.#rfbSocket = rfbSocket;
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => response.destroy(error as Error));
    });
    this.#server.on('connection', (socket: Socket) => {
      this.#connections.add(socket);
      socket.once('close', () => this.#connections.delete(socket));
    });
    this.#server.on('upgrade', (request, socket: Socket, head) => void this.#upgrade(request, socket, head));
  }

  static async start(rfbSocket: string): Promise<Gateway> {
    const gateway = new Gateway(rfbSocket);
    await gateway.listen(0);
    return gateway;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** The address of a live view. */
  view(query = '', bearer = token): string {
    return `http://127.0.0.1:${this.port}/view/team-a/demo${query}#token=${bearer}`;
  }

  /** The address of the dashboard. */
  dashboard(query = ''): string {
    return `http://127.0.0.1:${this.port}/${query}`;
  }

  /** The newest connection. */
  get call(): Call {
    const call = this.calls.at(-1);
    if (call === undefined) throw new Error('nobody has called');
    return call;
  }

  /** How it stands, for whoever looks into a failure. */
  toString(): string {
    const calls = this.calls.map(({ offered, socket, received, shown }) => {
      const heard = received.reduce((sum, { length }) => sum + length, 0);
      return `${offered[0]}: ready state ${socket.readyState}, ${heard} bytes of the page, ${shown} of the display`;
    });
    return [`${this.questions} questions, ${this.api.streams} streams`, ...calls].join('\n');
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** Refuses connections, and cuts those that are there. */
  async stop(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#connections) socket.destroy();
    await closed;
  }

  #choose(offered: Set<string>): string | false {
    const mayControl = this.grants === 'control' && this.api.role !== 'viewer';
    const role = mayControl && offered.has('camofleet.control') ? 'control' : 'view';
    return offered.has(`camofleet.${role}`) ? `camofleet.${role}` : false;
  }

  #refusal(request: IncomingMessage): Refusal | null {
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(/, */);
    const byToken =
      request.headers.authorization === `Bearer ${token}` || offered.includes(`camofleet.bearer.${token}`);
    const isKnown = byToken || this.api.roleOf(request) !== null;
    return isKnown ? this.refusal : { status: 401, detail: 'the token is unknown' };
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? '', 'http://gateway');
    if (pathname === '/') {
      response.writeHead(200, pageHeaders).end(await readFile(join(dist, 'index.html')));
    } else if (pathname.startsWith('/api/')) {
      await this.api.answer(request, response, pathname.slice('/api'.length));
    } else if (pathname.startsWith('/view/')) {
      response.writeHead(200, pageHeaders).end(await readFile(join(dist, 'view.html')));
    } else if (/^\/assets\/[\w.-]+$/.test(pathname)) {
      const headers = {
        'Content-Type': contentTypes[extname(pathname)] ?? 'application/octet-stream',
        'X-Content-Type-Options': 'nosniff',
        'Cache-Control': 'public, max-age=31536000, immutable',
      };
      response.writeHead(200, headers).end(await readFile(join(dist, pathname)));
    } else if (pathname.startsWith('/vnc/')) {
      this.questions++;
      await this.hold;
      const refusal = this.#refusal(request) ?? { status: 426, detail: 'this is a WebSocket' };
      const headers = { 'Content-Type': 'application/json', ...retryAfter(refusal) };
      response.writeHead(refusal.status, headers).end(JSON.stringify({ detail: refusal.detail }));
    } else {
      response.writeHead(404).end();
    }
  }

  async #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): Promise<void> {
    socket.on('error', () => socket.destroy());
    await this.hold;
    const refusal = this.#refusal(request);
    if (refusal !== null) {
      socket.end(`HTTP/1.1 ${refusal.status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (page) => {
      const offered = (request.headers['sec-websocket-protocol'] ?? '').split(/, */);
      const received: Buffer[] = [];
      const call = { offered, socket: page, received, shown: 0 };
      this.calls.push(call);
      const display = connect(this.#rfbSocket);
      display.on('data', (bytes) => {
        call.shown += bytes.length;
        page.send(bytes);
      });
      display.on('error', () => page.terminate());
      page.on('message', (bytes: Buffer) => {
        received.push(bytes);
        display.write(bytes);
      });
      page.on('close', () => display.destroy());
      page.on('error', () => page.terminate());
    });
  }
}

function retryAfter({ retryAfter }: Refusal): Record<string, string> {
  return retryAfter === undefined ? {} : { 'Retry-After': String(retryAfter) };
}
