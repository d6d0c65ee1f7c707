import { useMemo, useSyncExternalStore } from 'react';
import { formatRoute, parseRoute, type Route } from './route.ts';

export type Navigate = (change: Partial<Route>) => void;

/** The route, and how to change it. A change of a filter replaces the entry of the browser's history; others add one. */
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
