/** The fleet in the query cache. Whoever holds the stream puts it there; everybody else reads. */

import { type QueryClient, skipToken, useQuery } from '@tanstack/react-query';
import { type Fleet, type FleetEvent, fold } from './fleet.ts';

const key = ['fleet'];

/** Undefined until the first `reset`. */
export function useFleet(): Fleet | undefined {
  return useQuery<Fleet>({ queryKey: key, queryFn: skipToken, staleTime: Number.POSITIVE_INFINITY }).data;
}

export function putEvent(cache: QueryClient, event: FleetEvent): void {
  cache.setQueryData<Fleet>(key, (fleet) => fold(fleet, event));
}
