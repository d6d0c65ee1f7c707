/** The live view as a React component: mounts a `LiveViewWidget`. */

import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useEffectEvent, useRef } from 'react';
import { loginKey } from '#shared/api.ts';
import type { ConnectionState, Scope } from './connection.ts';
import { LiveViewWidget } from './widget.ts';

interface Props {
  readonly namespace: string;
  readonly id: string;
  readonly scope: Scope;
  readonly onStateChange?: (state: ConnectionState) => void;
  readonly onKeyboardRelease?: () => void;
}

export function SessionScreen({ namespace, id, scope, onStateChange, onKeyboardRelease }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const widget = useRef<LiveViewWidget>(null);
  const cache = useQueryClient();
  const initialScope = useEffectEvent(() => scope);
  const handleStateChange = useEffectEvent((state: ConnectionState) => {
    onStateChange?.(state);
    // The login may have expired.
    if (state.phase.type === 'failed') void cache.invalidateQueries({ queryKey: loginKey });
  });
  const handleKeyboardRelease = useEffectEvent(() => onKeyboardRelease?.());

  useEffect(() => {
    if (host.current === null) return;
    const created = new LiveViewWidget(host.current, {
      url: new URL(`/vnc/${encodeURIComponent(namespace)}/${encodeURIComponent(id)}`, location.href),
      token: null,
      scope: initialScope(),
      name: `session ${id} in ${namespace}`,
      onStateChange: handleStateChange,
      onKeyboardRelease: handleKeyboardRelease,
    });
    widget.current = created;
    return () => created.remove();
  }, [namespace, id]);
  useEffect(() => widget.current?.requestScope(scope), [scope]);

  return <div className="live-view-host" ref={host} />;
}
