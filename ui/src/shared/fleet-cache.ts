/** The fleet of a namespace in the query cache. Whoever holds the stream puts it there; everybody else reads. */

import { type QueryClient, skipToken, useQuery } from '@tanstack/react-query';
import { type Fleet, type FleetEvent, fold } from './fleet.ts';

/** `namespace`: null for the gateway's own. */
const keyOf = (namespace: string | null) => ['fleet', namespace];

/** Which namespaces there are, in the query cache. */
export const namespacesKey = ['namespaces'];

/** Undefined until the first `reset`. */
export function useFleet(namespace: string | null): Fleet | undefined {
  return useQuery<Fleet>({ queryKey: keyOf(namespace), queryFn: skipToken, staleTime: Number.POSITIVE_INFINITY }).data;
}

export function putEvents(cache: QueryClient, namespace: string | null, events: readonly FleetEvent[]): void {
  cache.setQueryData<Fleet>(keyOf(namespace), (fleet) => events.reduce(fold, fleet));
}

/** Of all namespaces, and which there are. */
export function forgetFleets(cache: QueryClient): void {
  cache.removeQueries({ queryKey: ['fleet'] });
  cache.removeQueries({ queryKey: namespacesKey });
}
