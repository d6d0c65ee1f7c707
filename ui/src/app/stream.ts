/** The one stream of events that feeds the query cache. */

import { type QueryClient, useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { eventTypes, parseEvent } from '#shared/fleet.ts';
import { putEvent } from '#shared/use-fleet.ts';

/** `lostAt`: since when what is shown is old, in milliseconds since 1970; null while it is told at once. */
export interface StreamState {
  readonly lostAt: number | null;
}

const RETRY_MS = 2_000;

/** Holds the stream while the page is shown. `onRefused`: the gateway does not give it; the login may be over. */
export function useStream(onRefused: () => void): StreamState {
  const cache = useQueryClient();
  const [state, setState] = useState<StreamState>({ lostAt: null });
  useEffect(() => {
    const setLost = (lost: boolean) =>
      setState((before) => (lost === (before.lostAt !== null) ? before : { lostAt: lost ? Date.now() : null }));
    return hold(cache, setLost, onRefused);
  }, [cache, onRefused]);
  return state;
}

function hold(cache: QueryClient, setLost: (lost: boolean) => void, onRefused: () => void): () => void {
  let source: EventSource;
  let retry: ReturnType<typeof setTimeout>;
  const open = () => {
    source = new EventSource('/api/events');
    for (const type of eventTypes) {
      source.addEventListener(type, ({ data }) => putEvent(cache, parseEvent(type, data)));
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
