/**
 * A fake of the gateway: serves the built pages with the headers of the real one, a fake of the REST API, and the RFB
 * of a display over WebSocket.
 */

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { extname, join } from 'node:path';
import { type WebSocket, WebSocketServer } from 'ws';
import { FakeApi } from './fake-api.ts';

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

export interface Rejection {
  readonly status: number;
  readonly detail: string;
  readonly retryAfter?: number;
}

/** A WebSocket of the page. */
export interface ViewerConnection {
  readonly offeredSubprotocols: readonly string[];
  readonly socket: WebSocket;
  /** The messages of the page. */
  readonly received: Buffer[];
  /** Count of bytes that the display has sent. */
  bytesSent: number;
}

export class FakeGateway {
  /** The one token that the gateway accepts. */
  token = token;
  /** The widest scope that the gateway grants. */
  maxScope: 'view' | 'control' = 'control';
  /** Answers every handshake and probe; null accepts them. */
  rejection: Rejection | null = null;
  /** Delays handshakes and probes until it resolves. */
  delay: Promise<void> | null = null;
  readonly connections: ViewerConnection[] = [];
  /** Count of probes over plain HTTP. */
  probes = 0;

  readonly api = new FakeApi();

  readonly #rfbSocket: string;
  readonly #server: Server;
  readonly #webSockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => this.#selectSubprotocol(offered),
  });
  readonly #sockets = new Set<Socket>();

  private constructor(rfbSocket: string) {
    this.#rfbSocket = rfbSocket;
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => response.destroy(error as Error));
    });
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    this.#server.on('upgrade', (request, socket: Socket, head) => void this.#upgrade(request, socket, head));
  }

  static async start(rfbSocket: string): Promise<FakeGateway> {
    const gateway = new FakeGateway(rfbSocket);
    await gateway.listen(0);
    return gateway;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** The URL of a live view. */
  view(query = '', bearer = this.token): string {
    return `http://127.0.0.1:${this.port}/view/team-a/demo${query}#token=${bearer}`;
  }

  /** The URL of the dashboard. */
  dashboard(query = ''): string {
    return `http://127.0.0.1:${this.port}/${query}`;
  }

  /** The newest connection. */
  get lastConnection(): ViewerConnection {
    const connection = this.connections.at(-1);
    if (connection === undefined) throw new Error('no viewer has connected yet');
    return connection;
  }

  /** The state of all connections, for the log of a failed test. */
  toString(): string {
    const lines = this.connections.map(({ offeredSubprotocols, socket, received, bytesSent }) => {
      const receivedBytes = received.reduce((sum, { length }) => sum + length, 0);
      return `${offeredSubprotocols[0]}: ready state ${socket.readyState}, ${receivedBytes} bytes received, ${bytesSent} sent`;
    });
    return [`${this.probes} probes, ${this.api.openStreams} streams`, ...lines].join('\n');
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** Stops listening and breaks all connections. */
  async stop(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #selectSubprotocol(offered: Set<string>): string | false {
    const mayControl = this.maxScope === 'control' && this.api.role !== 'viewer';
    const scope = mayControl && offered.has('camofleet.control') ? 'control' : 'view';
    return offered.has(`camofleet.${scope}`) ? `camofleet.${scope}` : false;
  }

  #rejectionOf(request: IncomingMessage): Rejection | null {
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(/, */);
    const byToken =
      request.headers.authorization === `Bearer ${this.token}` || offered.includes(`camofleet.bearer.${this.token}`);
    const isKnown = byToken || this.api.roleOf(request) !== null;
    return isKnown ? this.rejection : { status: 401, detail: 'the token is unknown' };
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? '', 'http://gateway');
    if (pathname === '/') {
      response.writeHead(200, pageHeaders).end(await readFile(join(dist, 'index.html')));
    } else if (pathname.startsWith('/api/')) {
      await this.api.handle(request, response, pathname.slice('/api'.length));
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
      this.probes++;
      await this.delay;
      const rejection = this.#rejectionOf(request) ?? { status: 426, detail: 'this is a WebSocket' };
      const headers = { 'Content-Type': 'application/json', ...retryAfter(rejection) };
      response.writeHead(rejection.status, headers).end(JSON.stringify({ detail: rejection.detail }));
    } else {
      response.writeHead(404).end();
    }
  }

  async #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): Promise<void> {
    socket.on('error', () => socket.destroy());
    await this.delay;
    const rejection = this.#rejectionOf(request);
    if (rejection !== null) {
      socket.end(`HTTP/1.1 ${rejection.status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      return;
    }
    this.#webSockets.handleUpgrade(request, socket, head, (page) => {
      const offered = (request.headers['sec-websocket-protocol'] ?? '').split(/, */);
      const received: Buffer[] = [];
      const connection = { offeredSubprotocols: offered, socket: page, received, bytesSent: 0 };
      this.connections.push(connection);
      const display = connect(this.#rfbSocket);
      display.on('data', (bytes) => {
        connection.bytesSent += bytes.length;
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

function retryAfter({ retryAfter }: Rejection): Record<string, string> {
  return retryAfter === undefined ? {} : { 'Retry-After': String(retryAfter) };
}
