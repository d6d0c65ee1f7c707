/** The dashboard's route: the part of its state that the address of the page holds. Pure. */

import { sessionStates } from '#features/sessions/selectors.ts';

export const tabs = ['sessions', 'pools', 'wall'] as const;
export type Tab = (typeof tabs)[number];

/** Live views per page of the wall. */
export const wallSizes = [1, 4, 9] as const;
export type WallSize = (typeof wallSizes)[number];

export interface Route {
  /** Null for the gateway's own. */
  readonly namespace: string | null;
  readonly tab: Tab;
  /** The text that sessions are searched for. */
  readonly searchText: string;
  /** A state of sessions, or empty for all. */
  readonly state: string;
  /** Id of the session whose panel is open. */
  readonly session: string | null;
  /** Whether the form to start a session is open. */
  readonly startFormOpen: boolean;
  readonly wallSize: WallSize;
  /** Page of the wall, from 1. */
  readonly wallPage: number;
}

/** Reads `?ns=…&tab=…&q=…&state=…&session=…&start=1&size=…&page=…`. Invalid values count as missing. */
export function parseRoute(query: string): Route {
  const parameters = new URLSearchParams(query);
  const page = Number(parameters.get('page'));
  return {
    namespace: parameters.get('ns') || null,
    tab: tabs.find((tab) => tab === parameters.get('tab')) ?? 'sessions',
    searchText: parameters.get('q') ?? '',
    state: sessionStates.find((state) => state === parameters.get('state')) ?? '',
    session: parameters.get('session') || null,
    startFormOpen: parameters.get('start') === '1',
    wallSize: wallSizes.find((size) => String(size) === parameters.get('size')) ?? 4,
    wallPage: Number.isInteger(page) && page > 0 ? page : 1,
  };
}

/** Formats the query of a route, without the parameters that have their default value. */
export function formatRoute(route: Route): string {
  const parameters = new URLSearchParams();
  if (route.namespace !== null) parameters.set('ns', route.namespace);
  if (route.tab !== 'sessions') parameters.set('tab', route.tab);
  if (route.searchText !== '') parameters.set('q', route.searchText);
  if (route.state !== '') parameters.set('state', route.state);
  if (route.session !== null) parameters.set('session', route.session);
  if (route.startFormOpen) parameters.set('start', '1');
  if (route.wallSize !== 4) parameters.set('size', String(route.wallSize));
  if (route.wallPage !== 1) parameters.set('page', String(route.wallPage));
  const query = parameters.toString();
  return query === '' ? '' : `?${query}`;
}
