/** The panel of the selected session: its details and its live view. */

import { useEffect, useRef } from 'react';
import { LiveViewPanel } from '#features/live-view/live-view-panel.tsx';
import { isReady } from '#features/sessions/selectors.ts';
import { SessionDetail } from '#features/sessions/session-detail.tsx';
import { ActionButton } from '#shared/action-button.tsx';
import type { Session } from '#shared/api.ts';

interface Props {
  readonly id: string;
  readonly session: Session | undefined;
  /** Why the user cannot change the session; null if they can. */
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
  // The element that had the focus may have been removed with the session.
  useEffect(() => {
    if (document.activeElement === document.body) container.current?.querySelector('button')?.focus();
  }, []);
  return (
    <div className="empty" ref={container}>
      <strong>There is no session {id}</strong>
      <span>It was deleted, or it never existed.</span>
      <ActionButton onPress={onClose}>Close</ActionButton>
    </div>
  );
}

function placeholderText({ state, vnc_enabled }: Session): string {
  if (state === 'Finished') return 'The session has finished, so it has no live view.';
  if (state !== 'Ready') return 'The live view starts when the session is Ready.';
  return vnc_enabled
    ? 'The gateway did not report an address for the live view.'
    : 'This session has no live view. To view a session, start it with the display “Live view”.';
}
