/** A fake of the gateway's REST API that keeps a fleet in memory. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';
import type { CreateSession, Session } from '../src/shared/api.ts';
import { applyEvent, type EventName, type Fleet, type FleetEvent } from '../src/shared/fleet.ts';
import type { components } from '../src/shared/openapi.gen.ts';
import { testSession } from '../src/shared/test-data.ts';

type IssuedToken = components['schemas']['IssuedToken'];

export const tokens = { admin: 'the-admin-token', viewer: 'the-viewer-token' } as const;

export type Role = keyof typeof tokens;

/** The login cookie. */
export const login = { name: 'camofleet_login', value: '1' } as const;

interface ApiResponse {
  readonly status: number;
  readonly body: unknown;
}

export class FakeApi {
  /** The fleet of the gateway's own namespace, team-a. */
  fleet: Fleet = { sessions: new Map(), pools: new Map() };
  /** The fleets of other namespaces. They are read-only. */
  readonly otherFleets = new Map<string, Fleet>();
  /** The queue position of each session. */
  queuePosition = 3;
  /** The namespaces of the requests to create a session, the newest last. */
  readonly createdIn: string[] = [];
  /** Answers a request to create a session; null creates one. */
  onCreate: ((body: CreateSession) => ApiResponse | Promise<ApiResponse>) | null = null;
  /** Bodies of `POST /sessions`, the newest last. */
  readonly createRequests: CreateSession[] = [];
  /** The session tokens that were issued. */
  readonly mintedTokens: IssuedToken[] = [];
  /** The role of the login; null rejects every cookie. */
  role: Role | null = null;

  /** Count of requests for the event stream. */
  streamRequests = 0;

  /** Whether requests for the event stream are answered. */
  answersStreams = true;

  readonly #streams = new Set<ServerResponse>();

  /** Applies events to the fleet and sends them to all streams. */
  emit(...events: FleetEvent[]): void {
    for (const event of events) {
      this.fleet = applyEvent(this.fleet, event) ?? this.fleet;
      for (const stream of this.#streams) stream.write(serialize(event));
    }
  }

  /** A session with a live view. */
  watchable(id: string, changes: Partial<Session> = {}): Session {
    const vnc = {
      ws: `ws://elsewhere.example/vnc/team-a/${id}?token=a.b.c`,
      http: `http://elsewhere.example/view/team-a/${id}#token=a.b.c`,
      password_protected: false,
    };
    return testSession(id, { vnc_enabled: true, vnc, ...changes });
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  /** The role that the login cookie has. */
  roleOf(request: IncomingMessage): Role | null {
    return request.headers.cookie?.includes(`${login.name}=${login.value}`) ? this.role : null;
  }

  async handle(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    const role = this.roleOf(request);
    const [, namespace = 'team-a', call] = path.match(/^\/namespaces\/([^/]+)(\/.*)$/) ?? ['', undefined, path];
    if (call === '/events' && role !== null) return this.#stream(request, response, this.otherFleets.get(namespace));
    if (call === '/sessions') this.createdIn.push(namespace);
    const { status, body } = await this.#respond(request, response, call ?? '', role);
    response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
    response.end(JSON.stringify(body));
  }

  async #respond(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    role: Role | null,
  ): Promise<ApiResponse> {
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
    if (role === null) return problem(401, 'a token is required');
    if (call === 'GET /login') return { status: 200, body: { role } };
    if (call === 'GET /namespaces') {
      return { status: 200, body: { own: 'team-a', namespaces: ['team-a', ...this.otherFleets.keys()] } };
    }
    if (call === 'GET /sessions/*') {
      const session = this.fleet.sessions.get(path.split('/')[3] ?? '');
      return session
        ? { status: 200, body: { ...session, queue_position: this.queuePosition } }
        : problem(404, 'no such session');
    }
    if (role !== 'admin') return problem(403, 'the role viewer permits reading only');
    if (call === 'POST /sessions') return this.#create((await json(request)) as CreateSession);
    const session = this.fleet.sessions.get(path.split('/')[3] ?? '');
    if (session === undefined) return problem(404, 'no such session');
    switch (call) {
      case 'POST /sessions/*/touch': {
        const touched = { ...session, last_seen_at: new Date().toISOString() };
        this.emit({ type: 'session', session: touched });
        return { status: 200, body: touched };
      }
      case 'POST /sessions/*/tokens': {
        const { scope } = (await json(request)) as { scope: IssuedToken['scope'] };
        const token = `minted.${scope}.${this.mintedTokens.length}`;
        const shared = { token, scope, session: session.id, expires_at: '2126-01-01T00:00:00Z', single_use: false };
        this.mintedTokens.push(shared);
        return { status: 201, body: shared };
      }
      case 'DELETE /sessions/*':
        this.emit({ type: 'session-gone', id: session.id });
        return { status: 200, body: { id: session.id, status: 'TERMINATING' } };
      default:
        return problem(404, 'no such endpoint');
    }
  }

  #create(body: CreateSession): ApiResponse | Promise<ApiResponse> {
    this.createRequests.push(body);
    if (this.onCreate !== null) return this.onCreate(body);
    const id = `made-${this.createRequests.length}`;
    const made = { created_at: new Date().toISOString(), last_seen_at: new Date().toISOString() };
    const session = body.vnc ? this.watchable(id, made) : testSession(id, made);
    this.emit({ type: 'session', session });
    return { status: 201, body: session };
  }

  #stream(request: IncomingMessage, response: ServerResponse, otherFleet: Fleet | undefined): void {
    this.streamRequests++;
    if (!this.answersStreams) return;
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    // Without it browsers wait 3 to 5 s before they reconnect.
    response.write('retry: 100\n\n');
    const { sessions, pools } = otherFleet ?? this.fleet;
    response.write(serialize({ type: 'reset', sessions: [...sessions.values()], pools: [...pools.values()] }));
    if (otherFleet === undefined) this.#streams.add(response);
    request.on('close', () => this.#streams.delete(response));
  }
}

export function problem(status: number, detail: unknown): ApiResponse {
  return { status, body: { detail } };
}

/** The event as the REST API has it, which calls a pool a worker. */
function serialize(event: FleetEvent): string {
  const [name, data] = wireEvent(event);
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}

function wireEvent(event: FleetEvent): [EventName, unknown] {
  switch (event.type) {
    case 'reset':
      return ['reset', { sessions: event.sessions, workers: event.pools }];
    case 'session':
      return ['session', event.session];
    case 'session-gone':
      return ['session-gone', { id: event.id }];
    case 'pool':
      return ['worker', event.pool];
    case 'pool-gone':
      return ['worker-gone', { id: event.id }];
  }
}
