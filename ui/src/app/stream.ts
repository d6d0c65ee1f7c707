/** The one stream of events that feeds the query cache. */

import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { pathOf } from '#shared/api.ts';
import { eventTypes, type FleetEvent, parseEvent } from '#shared/fleet.ts';
import { putEvent } from '#shared/use-fleet.ts';

/** `lostAt`: since when what is shown is old, in milliseconds since 1970; null while it is told at once. */
export interface StreamState {
  readonly lostAt: number | null;
}

const RETRY_MS = 2_000;

/**
 * Holds the stream of a namespace (null: the gateway's own) while the page is shown. `onRefused`: the gateway does not give it; the
 * login may be over.
 */
export function useStream(namespace: string | null, onRefused: () => void): StreamState {
  const cache = useQueryClient();
  const [state, setState] = useState<StreamState>({ lostAt: null });
  useEffect(() => {
    const setLost = (lost: boolean) =>
      setState((before) => (lost === (before.lostAt !== null) ? before : { lostAt: lost ? Date.now() : null }));
    const tell = (event: FleetEvent) => putEvent(cache, namespace, event);
    return hold(`${pathOf(namespace)}/events`, tell, setLost, onRefused);
  }, [cache, namespace, onRefused]);
  return state;
}

function hold(
  url: string,
  tell: (event: FleetEvent) => void,
  setLost: (lost: boolean) => void,
  onRefused: () => void,
): () => void {
  let source: EventSource;
  let retry: ReturnType<typeof setTimeout>;
  const open = () => {
    source = new EventSource(url);
    for (const type of eventTypes) {
      source.addEventListener(type, ({ data }) => tell(parseEvent(type, data)));
    }
    source.addEventListener('open', () => setLost(false));
    source.addEventListener('error', () => {
      setLost(true);
      // A connection that breaks is made again by the browser, with Last-Event-ID; one that is refused is not.
      if (source.readyState !== EventSource.CLOSED) return;
      onRefused();
      retry = setTimeout(open, RETRY_MS);
    });
  };
  open();
  return () => {
    clearTimeout(retry);
    source.close();
  };
}
