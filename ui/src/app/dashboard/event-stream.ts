/** Keeps one stream of the gateway's events open, and writes the events into the query cache. */

import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { apiPath } from '#shared/api.ts';
import { createBatcher } from '#shared/batcher.ts';
import { eventNames, type FleetEvent, parseEvent } from '#shared/fleet.ts';
import { applyEvents } from '#shared/fleet-cache.ts';

export interface StreamState {
  /**
   * Time of the last event, in milliseconds since 1970, while the stream is disconnected; null while it is connected.
   */
  readonly disconnectedSince: number | null;
}

/** Pause before a rejected request is repeated. */
const RETRY_MS = 2_000;

/** Time for the gateway to answer the request. */
const CONNECT_TIMEOUT_MS = 10_000;

/**
 * The gateway sends an event every 15 s. A stream without one for this long is dead, even if the browser keeps it
 * open.
 */
const SILENCE_TIMEOUT_MS = 40_000;

/** Bounds how often the page renders, because a busy fleet changes faster than a person can read. */
const RENDER_INTERVAL_MS = 250;

/**
 * Streams the events of a namespace (null: the gateway's own) while the page is visible. `onRejected`: the gateway
 * rejected the request, perhaps because the login has expired.
 */
export function useEventStream(namespace: string | null, onRejected: () => void): StreamState {
  const cache = useQueryClient();
  const [state, setState] = useState<StreamState>({ disconnectedSince: null });
  useEffect(() => {
    const onConnectionChange = (disconnectedSince: number | null) =>
      setState((previous) =>
        (disconnectedSince === null) === (previous.disconnectedSince === null) ? previous : { disconnectedSince },
      );
    const batcher = createBatcher<FleetEvent>(RENDER_INTERVAL_MS, (events) => applyEvents(cache, namespace, events));
    const close = openStream(`${apiPath(namespace)}/events`, batcher.add, onConnectionChange, onRejected);
    return () => {
      close();
      batcher.cancel();
    };
  }, [cache, namespace, onRejected]);
  return state;
}

function openStream(
  url: string,
  onEvent: (event: FleetEvent) => void,
  onConnectionChange: (disconnectedSince: number | null) => void,
  onRejected: () => void,
): () => void {
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout>;
  let lastEventAt = Date.now();
  const startTimer = (ms: number, onElapsed: () => void) => {
    clearTimeout(timer);
    timer = setTimeout(onElapsed, ms);
  };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const connect = () => {
    close();
    // A browser opens six connections to a host, for all tabs together. A hidden tab takes none of them.
    if (document.hidden) return;
    const opened = new EventSource(url);
    source = opened;
    startTimer(CONNECT_TIMEOUT_MS, () => {
      onConnectionChange(lastEventAt);
      connect();
    });
    const recordActivity = () => {
      lastEventAt = Date.now();
      // Does not report a lost connection: the new stream begins with the whole fleet, so nothing is out of date yet.
      startTimer(SILENCE_TIMEOUT_MS, connect);
    };
    opened.addEventListener('alive', recordActivity);
    for (const name of eventNames) {
      opened.addEventListener(name, ({ data }) => {
        recordActivity();
        onEvent(parseEvent(name, data));
      });
    }
    opened.addEventListener('open', () => {
      recordActivity();
      onConnectionChange(null);
    });
    opened.addEventListener('error', () => {
      onConnectionChange(lastEventAt);
      // The browser restores a broken connection by itself, with Last-Event-ID, but does not repeat a rejected request.
      if (opened.readyState !== EventSource.CLOSED) return;
      onRejected();
      startTimer(RETRY_MS, connect);
    });
  };
  connect();
  document.addEventListener('visibilitychange', connect);
  return () => {
    document.removeEventListener('visibilitychange', connect);
    close();
  };
}
