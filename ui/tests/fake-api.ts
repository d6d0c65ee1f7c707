/** Plays the gateway's REST API, from memory. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';
import type { CreateSession, Session } from '../src/shared/api.ts';
import { type Fleet, type FleetEvent, fold } from '../src/shared/fleet.ts';
import type { components } from '../src/shared/openapi.gen.ts';
import { exampleSession } from '../src/shared/test-data.ts';

type Shared = components['schemas']['Shared'];

export const tokens = { admin: 'the-admin-token', viewer: 'the-viewer-token' } as const;

export type Role = keyof typeof tokens;

/** The cookie of whoever is logged in. */
export const login = { name: 'camofleet_login', value: '1' } as const;

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

export class Api {
  /** Of the gateway's own namespace, team-a. */
  fleet: Fleet = { sessions: new Map(), workers: new Map() };
  /** Of other namespaces: only to look at. */
  readonly elsewhere = new Map<string, Fleet>();
  /** What it says of a session that waits. */
  queuePosition = 3;
  /** The namespaces in which sessions were asked for, the newest last. */
  readonly askedIn: string[] = [];
  /** Instead of making the session that is asked for. */
  onCreate: ((body: CreateSession) => Answer | Promise<Answer>) | null = null;
  /** Bodies of `POST /sessions`, the newest last. */
  readonly asked: CreateSession[] = [];
  /** The tokens that were given out. */
  readonly minted: Shared[] = [];
  /** Of the token that was logged in with; without one no cookie is good. */
  role: Role | null = null;

  /** How often the stream of events was asked for. */
  streamsAsked = 0;

  /** Whether it gets any answer. */
  streamsAnswered = true;

  readonly #streams = new Set<ServerResponse>();

  /** Has something happen, and tells everybody. */
  tell(...events: FleetEvent[]): void {
    for (const event of events) {
      this.fleet = fold(this.fleet, event) ?? this.fleet;
      for (const stream of this.#streams) stream.write(written(event));
    }
  }

  /** A session with a display, as the gateway tells of it. */
  watched(id: string, changes: Partial<Session> = {}): Session {
    const vnc = {
      ws: `ws://elsewhere.example/vnc/team-a/${id}?token=a.b.c`,
      http: `http://elsewhere.example/view/team-a/${id}#token=a.b.c`,
      password_protected: false,
    };
    return exampleSession(id, { vnc_enabled: true, vnc, ...changes });
  }

  get streams(): number {
    return this.#streams.size;
  }

  /** By the login cookie. */
  roleOf(request: IncomingMessage): Role | null {
    return request.headers.cookie?.includes(`${login.name}=${login.value}`) ? this.role : null;
  }

  async answer(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    const role = this.roleOf(request);
    const [, namespace = 'team-a', call] = path.match(/^\/namespaces\/([^/]+)(\/.*)$/) ?? ['', undefined, path];
    if (call === '/events' && role !== null) return this.#stream(request, response, this.elsewhere.get(namespace));
    if (call === '/sessions') this.askedIn.push(namespace);
    const { status, body } = await this.#decide(request, response, call ?? '', role);
    response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
    response.end(JSON.stringify(body));
  }

  async #decide(request: IncomingMessage, response: ServerResponse, path: string, role: Role | null): Promise<Answer> {
    const call = `${request.method} ${path.replace(/^\/sessions\/[^/]+\/[^/]+/, '/sessions/*')}`;
    if (call === 'POST /login') {
      const { token } = (await json(request)) as { token: string };
      if (token === tokens.admin) this.role = 'admin';
      else if (token === tokens.viewer) this.role = 'viewer';
      else return problem(401, 'the token is unknown');
      response.setHeader('Set-Cookie', `${login.name}=${login.value}; HttpOnly; SameSite=Strict; Path=/`);
      return { status: 200, body: { role: this.role } };
    }
    if (call === 'POST /logout') {
      this.role = null;
      return { status: 200, body: { role: null } };
    }
    if (role === null) return problem(401, 'a token is needed');
    if (call === 'GET /login') return { status: 200, body: { role } };
    if (call === 'GET /namespaces') {
      return { status: 200, body: { own: 'team-a', namespaces: ['team-a', ...this.elsewhere.keys()] } };
    }
    if (call === 'GET /sessions/*') {
      const session = this.fleet.sessions.get(path.split('/')[3] ?? '');
      return session ? { status: 200, body: { ...session, queue_position: this.queuePosition } } : problem(404, 'gone');
    }
    if (role !== 'admin') return problem(403, 'a viewer may only look');
    if (call === 'POST /sessions') return this.#create((await json(request)) as CreateSession);
    const session = this.fleet.sessions.get(path.split('/')[3] ?? '');
    if (session === undefined) return problem(404, 'there is no such session');
    switch (call) {
      case 'POST /sessions/*/touch': {
        const touched = { ...session, last_seen_at: new Date().toISOString() };
        this.tell({ type: 'session', session: touched });
        return { status: 200, body: touched };
      }
      case 'POST /sessions/*/tokens': {
        const { scope } = (await json(request)) as { scope: Shared['scope'] };
        const token = `minted.${scope}.${this.minted.length}`;
        const shared = { token, scope, session: session.id, expires_at: '2126-01-01T00:00:00Z', single_use: false };
        this.minted.push(shared);
        return { status: 201, body: shared };
      }
      case 'DELETE /sessions/*':
        this.tell({ type: 'session-gone', id: session.id });
        return { status: 200, body: { id: session.id, status: 'TERMINATING' } };
      default:
        return problem(404, 'there is nothing of this name');
    }
  }

  #create(body: CreateSession): Answer | Promise<Answer> {
    this.asked.push(body);
    if (this.onCreate !== null) return this.onCreate(body);
    const id = `made-${this.asked.length}`;
    const made = { created_at: new Date().toISOString(), last_seen_at: new Date().toISOString() };
    const session = body.vnc ? this.watched(id, made) : exampleSession(id, made);
    this.tell({ type: 'session', session });
    return { status: 201, body: session };
  }

  #stream(request: IncomingMessage, response: ServerResponse, elsewhere: Fleet | undefined): void {
    this.streamsAsked++;
    if (!this.streamsAnswered) return;
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    // Browsers wait 3 to 5 s otherwise.
    response.write('retry: 100\n\n');
    const { sessions, workers } = elsewhere ?? this.fleet;
    response.write(written({ type: 'reset', sessions: [...sessions.values()], workers: [...workers.values()] }));
    if (elsewhere === undefined) this.#streams.add(response);
    request.on('close', () => this.#streams.delete(response));
  }
}

export function problem(status: number, detail: unknown): Answer {
  return { status, body: { detail } };
}

function written(event: FleetEvent): string {
  return `event: ${event.type}\ndata: ${JSON.stringify(dataOf(event))}\n\n`;
}

function dataOf(event: FleetEvent): unknown {
  switch (event.type) {
    case 'session':
      return event.session;
    case 'worker':
      return event.worker;
    default: {
      const { type: _, ...data } = event;
      return data;
    }
  }
}
