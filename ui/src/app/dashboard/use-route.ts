import { useMemo, useSyncExternalStore } from 'react';
import { formatRoute, parseRoute, type Route } from './route.ts';

export type Navigate = (change: Partial<Route>) => void;

/**
 * The current route, and the function that changes it. A change of a filter replaces the current entry of the
 * browser's history; every other change adds an entry.
 */
export function useRoute(): [Route, Navigate] {
  const query = useSyncExternalStore(subscribe, () => location.search);
  const route = useMemo(() => parseRoute(query), [query]);
  return [route, navigate];
}

function navigate(change: Partial<Route>): void {
  const address = formatRoute({ ...parseRoute(location.search), ...change }) || location.pathname;
  if ('searchText' in change || 'state' in change) history.replaceState(null, '', address);
  else history.pushState(null, '', address);
  // The browser sends this event only for its own navigation.
  window.dispatchEvent(new PopStateEvent('popstate'));
}

function subscribe(listener: () => void): () => void {
  window.addEventListener('popstate', listener);
  return () => window.removeEventListener('popstate', listener);
}
