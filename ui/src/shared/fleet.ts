/** All that there is, as the gateway's events tell it. Pure. */

import type { Session, Worker } from './api.ts';

export interface Fleet {
  readonly sessions: ReadonlyMap<string, Session>;
  /** Pools, by name. */
  readonly workers: ReadonlyMap<string, Worker>;
}

/** The events of `GET /api/events`, by their names there. */
export type FleetEvent =
  | { readonly type: 'reset'; readonly sessions: readonly Session[]; readonly workers: readonly Worker[] }
  | { readonly type: 'session'; readonly session: Session }
  | { readonly type: 'session-gone'; readonly id: string }
  | { readonly type: 'worker'; readonly worker: Worker }
  | { readonly type: 'worker-gone'; readonly id: string };

export const eventTypes = ['reset', 'session', 'session-gone', 'worker', 'worker-gone'] as const;

/** The event of a name and the JSON that came with it. */
export function parseEvent(type: FleetEvent['type'], data: string): FleetEvent {
  const body = JSON.parse(data);
  switch (type) {
    case 'reset':
      return { type, sessions: body.sessions, workers: body.workers };
    case 'session':
      return { type, session: body };
    case 'worker':
      return { type, worker: body };
    case 'session-gone':
    case 'worker-gone':
      return { type, id: body.id };
  }
}

/**
 * What there is after an event. `fleet` is undefined before the first `reset`: nothing that comes before one is the
 * whole, so it stays undefined.
 */
export function fold(fleet: Fleet | undefined, event: FleetEvent): Fleet | undefined {
  if (event.type === 'reset') {
    return {
      sessions: new Map(event.sessions.map((session) => [session.id, session])),
      workers: new Map(event.workers.map((worker) => [worker.name, worker])),
    };
  }
  if (fleet === undefined) return undefined;
  switch (event.type) {
    case 'session':
      return { ...fleet, sessions: new Map(fleet.sessions).set(event.session.id, event.session) };
    case 'worker':
      return { ...fleet, workers: new Map(fleet.workers).set(event.worker.name, event.worker) };
    case 'session-gone':
      return fleet.sessions.has(event.id) ? { ...fleet, sessions: without(fleet.sessions, event.id) } : fleet;
    case 'worker-gone':
      return fleet.workers.has(event.id) ? { ...fleet, workers: without(fleet.workers, event.id) } : fleet;
  }
}

function without<Value>(all: ReadonlyMap<string, Value>, id: string): ReadonlyMap<string, Value> {
  const rest = new Map(all);
  rest.delete(id);
  return rest;
}
