/** One session beside the list, with its live view. */

import { useEffect, useRef } from 'react';
import { LiveViewPanel } from '#features/live-view/live-view-panel.tsx';
import { isReady } from '#features/sessions/selectors.ts';
import { SessionDetail } from '#features/sessions/session-detail.tsx';
import { ActionButton } from '#shared/action-button.tsx';
import type { Session } from '#shared/api.ts';

interface Props {
  readonly id: string;
  readonly session: Session | undefined;
  /** Why the user must not change the session; null when it may. */
  readonly readOnlyReason: string | null;
  readonly onUpdate: (session: Session) => void;
  readonly onClose: () => void;
}

export function SessionPanel({ id, session, readOnlyReason, onUpdate, onClose }: Props) {
  if (session === undefined) return <SessionNotFound id={id} onClose={onClose} />;
  const picture =
    isReady(session) && session.vnc ? (
      <LiveViewPanel namespace={session.namespace} id={id} controlDisabledReason={readOnlyReason} />
    ) : (
      <p className="picture-placeholder">{placeholderText(session)}</p>
    );
  return (
    <SessionDetail
      session={session}
      readOnlyReason={readOnlyReason}
      picture={picture}
      onUpdate={onUpdate}
      onClose={onClose}
    />
  );
}

function SessionNotFound({ id, onClose }: { readonly id: string; readonly onClose: () => void }) {
  const container = useRef<HTMLDivElement>(null);
  // What had the focus may have gone with the session.
  useEffect(() => {
    if (document.activeElement === document.body) container.current?.querySelector('button')?.focus();
  }, []);
  return (
    <div className="empty" ref={container}>
      <strong>There is no session {id}</strong>
      <span>It was deleted, or never was.</span>
      <ActionButton onPress={onClose}>Close</ActionButton>
    </div>
  );
}

function placeholderText({ state, vnc_enabled }: Session): string {
  if (state === 'Finished') return 'The session is over: there is nothing to see any more.';
  if (state !== 'Ready') return 'Its picture comes as soon as it is Ready.';
  return vnc_enabled
    ? 'The gateway has no address for its live view.'
    : 'It has no live view. Start one with the display “Live view” to watch it.';
}
