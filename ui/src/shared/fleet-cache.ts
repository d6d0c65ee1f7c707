/** Fleets in the query cache. The event stream writes them; every other component reads them with `useFleet`. */

import { type QueryClient, skipToken, useQuery } from '@tanstack/react-query';
import { applyEvent, type Fleet, type FleetEvent } from './fleet.ts';

/** `namespace`: null for the gateway's own. */
const fleetKey = (namespace: string | null) => ['fleet', namespace];

/** The query of the namespaces that the user can choose. */
export const namespacesKey = ['namespaces'];

/** Undefined until the first `reset`. */
export function useFleet(namespace: string | null): Fleet | undefined {
  return useQuery<Fleet>({ queryKey: fleetKey(namespace), queryFn: skipToken, staleTime: Number.POSITIVE_INFINITY })
    .data;
}

export function applyEvents(cache: QueryClient, namespace: string | null, events: readonly FleetEvent[]): void {
  cache.setQueryData<Fleet>(fleetKey(namespace), (fleet) => events.reduce(applyEvent, fleet));
}

/** Removes the fleets of all namespaces, and the list of namespaces. */
export function clearFleets(cache: QueryClient): void {
  cache.removeQueries({ queryKey: ['fleet'] });
  cache.removeQueries({ queryKey: namespacesKey });
}
