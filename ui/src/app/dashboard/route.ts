/** Where a person is in the dashboard: what the address of the page says. Pure. */

import { states } from '#features/sessions/selectors.ts';

export const tabs = ['sessions', 'pools', 'wall'] as const;
export type Tab = (typeof tabs)[number];

/** How many live views the wall shows at once. */
export const wallSizes = [1, 4, 9] as const;
export type WallSize = (typeof wallSizes)[number];

export interface Place {
  /** Null: the gateway's own. */
  readonly namespace: string | null;
  readonly tab: Tab;
  /** What sessions are looked for by. */
  readonly text: string;
  /** A state of sessions, or empty for all. */
  readonly state: string;
  /** What stands beside the list: the session of this id, or the form to start one. */
  readonly session: string | null;
  readonly starting: boolean;
  readonly wallSize: WallSize;
  /** Of the wall, from 1. */
  readonly page: number;
}

/** Reads `?ns=…&tab=…&q=…&state=…&session=…&start=1&size=…&page=…`. What makes no sense counts as left out. */
export function parsePlace(query: string): Place {
  const parameters = new URLSearchParams(query);
  const page = Number(parameters.get('page'));
  return {
    namespace: parameters.get('ns') || null,
    tab: tabs.find((tab) => tab === parameters.get('tab')) ?? 'sessions',
    text: parameters.get('q') ?? '',
    state: states.find((state) => state === parameters.get('state')) ?? '',
    session: parameters.get('session') || null,
    starting: parameters.get('start') === '1',
    wallSize: wallSizes.find((size) => String(size) === parameters.get('size')) ?? 4,
    page: Number.isInteger(page) && page > 0 ? page : 1,
  };
}

/** The query of a place, without what goes without saying. */
export function formatPlace(place: Place): string {
  const parameters = new URLSearchParams();
  if (place.namespace !== null) parameters.set('ns', place.namespace);
  if (place.tab !== 'sessions') parameters.set('tab', place.tab);
  if (place.text !== '') parameters.set('q', place.text);
  if (place.state !== '') parameters.set('state', place.state);
  if (place.session !== null) parameters.set('session', place.session);
  if (place.starting) parameters.set('start', '1');
  if (place.wallSize !== 4) parameters.set('size', String(place.wallSize));
  if (place.page !== 1) parameters.set('page', String(place.page));
  const query = parameters.toString();
  return query === '' ? '' : `?${query}`;
}
