/** The live view as a React component. */

import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useEffectEvent, useRef } from 'react';
import { loginKey } from '#shared/api.ts';
import type { Role, State } from './connection.ts';
import { LiveView } from './widget.ts';

interface Props {
  readonly namespace: string;
  readonly id: string;
  readonly wanted: Role;
  readonly onState?: (state: State) => void;
  readonly onLeave?: () => void;
}

export function PictureOf({ namespace, id, wanted, onState, onLeave }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<LiveView>(null);
  const cache = useQueryClient();
  const first = useEffectEvent(() => wanted);
  const tell = useEffectEvent((state: State) => {
    onState?.(state);
    // The login may be over.
    if (state.shown.is === 'refused') void cache.invalidateQueries({ queryKey: loginKey });
  });
  const leave = useEffectEvent(() => onLeave?.());

  useEffect(() => {
    if (host.current === null) return;
    const made = new LiveView(host.current, {
      url: new URL(`/vnc/${encodeURIComponent(namespace)}/${encodeURIComponent(id)}`, location.href),
      token: null,
      wanted: first(),
      name: `session ${id} in ${namespace}`,
      onState: tell,
      onLeave: leave,
    });
    view.current = made;
    return () => made.remove();
  }, [namespace, id]);
  useEffect(() => view.current?.ask(wanted), [wanted]);

  return <div className="live-view-host" ref={host} />;
}
