/** The live view as a React component. */

import { useEffect, useEffectEvent, useRef, useState } from 'react';
import type { Role, State } from './connection.ts';
import { LiveView } from './live-view.ts';

interface Props {
  readonly namespace: string;
  readonly id: string;
  /** Read when the view begins: a newer one of the same kind does not begin it anew, unless the old one was refused. */
  readonly token: string | null;
  readonly wanted: Role;
  readonly onState?: (state: State) => void;
  readonly onLeave?: () => void;
}

export function PictureOf({ namespace, id, token, wanted, onState, onLeave }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const newest = useEffectEvent(() => token);
  const tell = useEffectEvent((state: State) => onState?.(state));
  const leave = useEffectEvent(() => onLeave?.());
  const [refused, setRefused] = useState<string | null>(null);
  // Tokens for looking are good for an hour and change before; a view that comes back later needs the newer one.
  const attempt = refused !== null && refused !== token ? token : null;

  // biome-ignore lint/correctness/useExhaustiveDependencies: an attempt is one more reason to begin anew.
  useEffect(() => {
    if (host.current === null) return;
    const used = newest();
    const view = new LiveView(host.current, {
      url: new URL(`/vnc/${encodeURIComponent(namespace)}/${encodeURIComponent(id)}`, location.href),
      token: used,
      wanted,
      name: `session ${id} in ${namespace}`,
      onState: (state) => {
        if (state.shown.is === 'refused') setRefused(used);
        tell(state);
      },
      onLeave: leave,
    });
    return () => view.remove();
  }, [namespace, id, wanted, attempt]);

  return <div className="live-view-host" ref={host} />;
}
