import { useMemo, useSyncExternalStore } from 'react';
import { formatPlace, type Place, parsePlace } from './route.ts';

/** The place, and how to go to another. Going elsewhere is a step of the browser's history, changing a filter is none. */
export function usePlace(): [Place, (change: Partial<Place>) => void] {
  const query = useSyncExternalStore(subscribe, () => location.search);
  const place = useMemo(() => parsePlace(query), [query]);
  return [place, go];
}

function go(change: Partial<Place>): void {
  const address = formatPlace({ ...parsePlace(location.search), ...change }) || location.pathname;
  if ('text' in change || 'state' in change) history.replaceState(null, '', address);
  else history.pushState(null, '', address);
  // The browser tells of its own steps only.
  window.dispatchEvent(new PopStateEvent('popstate'));
}

function subscribe(listener: () => void): () => void {
  window.addEventListener('popstate', listener);
  return () => window.removeEventListener('popstate', listener);
}
