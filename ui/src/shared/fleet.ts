/** The sessions and pools of a namespace, built from the gateway's events. Pure. */

import type { Pool, Session } from './api.ts';

export interface Fleet {
  /** By id. */
  readonly sessions: ReadonlyMap<string, Session>;
  /** By name. */
  readonly pools: ReadonlyMap<string, Pool>;
}

export type FleetEvent =
  | { readonly type: 'reset'; readonly sessions: readonly Session[]; readonly pools: readonly Pool[] }
  | { readonly type: 'session'; readonly session: Session }
  | { readonly type: 'session-gone'; readonly id: string }
  | { readonly type: 'pool'; readonly pool: Pool }
  | { readonly type: 'pool-gone'; readonly id: string };

/** The events of `GET /api/events`, which calls a pool a worker. */
export const eventNames = ['reset', 'session', 'session-gone', 'worker', 'worker-gone'] as const;
export type EventName = (typeof eventNames)[number];

/** Converts an event of the REST API. `data`: its JSON. */
export function parseEvent(name: EventName, data: string): FleetEvent {
  const body = JSON.parse(data);
  switch (name) {
    case 'reset':
      return { type: 'reset', sessions: body.sessions, pools: body.workers };
    case 'session':
      return { type: 'session', session: body };
    case 'session-gone':
      return { type: 'session-gone', id: body.id };
    case 'worker':
      return { type: 'pool', pool: body };
    case 'worker-gone':
      return { type: 'pool-gone', id: body.id };
  }
}

/**
 * Returns the fleet after an event. `fleet` is undefined before the first `reset` and stays so until it comes,
 * because an earlier event describes only a part of the fleet.
 */
export function applyEvent(fleet: Fleet | undefined, event: FleetEvent): Fleet | undefined {
  if (event.type === 'reset') {
    return {
      sessions: new Map(event.sessions.map((session) => [session.id, session])),
      pools: new Map(event.pools.map((pool) => [pool.name, pool])),
    };
  }
  if (fleet === undefined) return undefined;
  switch (event.type) {
    case 'session':
      return { ...fleet, sessions: new Map(fleet.sessions).set(event.session.id, event.session) };
    case 'session-gone':
      return fleet.sessions.has(event.id) ? { ...fleet, sessions: without(fleet.sessions, event.id) } : fleet;
    case 'pool':
      return { ...fleet, pools: new Map(fleet.pools).set(event.pool.name, event.pool) };
    case 'pool-gone':
      return fleet.pools.has(event.id) ? { ...fleet, pools: without(fleet.pools, event.id) } : fleet;
  }
}

function without<Value>(map: ReadonlyMap<string, Value>, key: string): ReadonlyMap<string, Value> {
  const rest = new Map(map);
  rest.delete(key);
  return rest;
}
