/** One session beside the list, with its live view. */

import { useEffect, useRef } from 'react';
import { LiveViewPanel } from '#features/live-view/live-view-panel.tsx';
import { isReady } from '#features/sessions/selectors.ts';
import { SessionDetail } from '#features/sessions/session-detail.tsx';
import { Action } from '#shared/action-button.tsx';
import type { Session } from '#shared/api.ts';

interface Props {
  readonly id: string;
  readonly session: Session | undefined;
  readonly whyNot: string | null;
  readonly onNews: (session: Session) => void;
  readonly onClose: () => void;
}

export function SessionPanel({ id, session, whyNot, onNews, onClose }: Props) {
  if (session === undefined) return <Gone id={id} onClose={onClose} />;
  const picture =
    isReady(session) && session.vnc ? (
      <LiveViewPanel namespace={session.namespace} id={id} controlDisabledReason={whyNot} />
    ) : (
      <p className="no-picture">{whyNoPicture(session)}</p>
    );
  return <SessionDetail session={session} whyNot={whyNot} picture={picture} onNews={onNews} onClose={onClose} />;
}

function Gone({ id, onClose }: { readonly id: string; readonly onClose: () => void }) {
  const place = useRef<HTMLDivElement>(null);
  // What had the focus may have gone with the session.
  useEffect(() => {
    if (document.activeElement === document.body) place.current?.querySelector('button')?.focus();
  }, []);
  return (
    <div className="empty" ref={place}>
      <strong>There is no session {id}</strong>
      <span>It was deleted, or never was.</span>
      <Action onAct={onClose}>Close</Action>
    </div>
  );
}

function whyNoPicture({ state, vnc_enabled }: Session): string {
  if (state === 'Finished') return 'The session is over: there is nothing to see any more.';
  if (state !== 'Ready') return 'Its picture comes as soon as it is Ready.';
  return vnc_enabled
    ? 'The gateway has no address for its live view.'
    : 'It has no live view. Start one with the display “Live view” to watch it.';
}
