/**
 * The store that the cells of the session table read. Each cell subscribes to its own session, so a change of one
 * session renders only the cells that show it.
 */

import { createContext, useContext, useLayoutEffect, useState, useSyncExternalStore } from 'react';
import type { Session } from '#shared/api.ts';

export class SessionStore {
  #sessions: ReadonlyMap<string, Session> = new Map();
  readonly #listeners = new Set<() => void>();

  readonly subscribe = (listener: () => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  get(id: string): Session | undefined {
    return this.#sessions.get(id);
  }

  replace(sessions: readonly Session[]) {
    this.#sessions = new Map(sessions.map((session) => [session.id, session]));
    for (const listener of this.#listeners) listener();
  }
}

export const SessionStoreContext = createContext(new SessionStore());

/** Creates a store that always holds `sessions`. */
export function useSessionStore(sessions: readonly Session[]): SessionStore {
  const [store] = useState(() => new SessionStore());
  useLayoutEffect(() => store.replace(sessions), [store, sessions]);
  return store;
}

/** The session as it is now; undefined once it is deleted. */
export function useStoredSession(id: string): Session | undefined {
  const store = useContext(SessionStoreContext);
  return useSyncExternalStore(store.subscribe, () => store.get(id));
}
