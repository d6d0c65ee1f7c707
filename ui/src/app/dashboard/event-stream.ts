/** The one stream of events that feeds the query cache. */

import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { pathOf } from '#shared/api.ts';
import { inBatches } from '#shared/batcher.ts';
import { eventTypes, type FleetEvent, parseEvent } from '#shared/fleet.ts';
import { putEvents } from '#shared/fleet-cache.ts';

/** `lostAt`: since when what is shown is old, in milliseconds since 1970; null while it is told at once. */
export interface StreamState {
  readonly lostAt: number | null;
}

const RETRY_MS = 2_000;

/** A gateway that has not answered for so long is not going to. */
const ANSWER_MS = 10_000;

/** The gateway says something every 15 s: after so long the connection is dead, whatever the browser thinks of it. */
const SILENCE_MS = 40_000;

/**
 * Holds the stream of a namespace (null: the gateway's own) while the page is seen. `onRefused`: the gateway does not give it; the
 * login may be over.
 */
export function useStream(namespace: string | null, onRefused: () => void): StreamState {
  const cache = useQueryClient();
  const [state, setState] = useState<StreamState>({ lostAt: null });
  useEffect(() => {
    const setLost = (lostAt: number | null) =>
      setState((before) => ((lostAt === null) === (before.lostAt === null) ? before : { lostAt }));
    const batch = inBatches<FleetEvent>(DRAW_MS, (events) => putEvents(cache, namespace, events));
    const letGo = hold(`${pathOf(namespace)}/events`, batch.tell, setLost, onRefused);
    return () => {
      letGo();
      batch.drop();
    };
  }, [cache, namespace, onRefused]);
  return state;
}

/** The page is drawn anew for what happens at most so often: a busy fleet changes faster than anybody can see. */
const DRAW_MS = 250;

function hold(
  url: string,
  tell: (event: FleetEvent) => void,
  setLost: (lostAt: number | null) => void,
  onRefused: () => void,
): () => void {
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout>;
  let heardAt = Date.now();
  const after = (ms: number, act: () => void) => {
    clearTimeout(timer);
    timer = setTimeout(act, ms);
  };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const open = () => {
    close();
    // Of all its tabs together a browser holds six connections to a host: those that nobody sees need none.
    if (document.hidden) return;
    const opened = new EventSource(url);
    source = opened;
    after(ANSWER_MS, () => {
      setLost(heardAt);
      open();
    });
    const heard = () => {
      heardAt = Date.now();
      // Nothing is lost yet that a new connection, which begins with all there is, does not make good at once.
      after(SILENCE_MS, open);
    };
    opened.addEventListener('alive', heard);
    for (const type of eventTypes) {
      opened.addEventListener(type, ({ data }) => {
        heard();
        tell(parseEvent(type, data));
      });
    }
    opened.addEventListener('open', () => {
      heard();
      setLost(null);
    });
    opened.addEventListener('error', () => {
      setLost(heardAt);
      // A connection that breaks is made again by the browser, with Last-Event-ID; one that is refused is not.
      if (opened.readyState !== EventSource.CLOSED) return;
      onRefused();
      after(RETRY_MS, open);
    });
  };
  open();
  document.addEventListener('visibilitychange', open);
  return () => {
    document.removeEventListener('visibilitychange', open);
    close();
  };
}
