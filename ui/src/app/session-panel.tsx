/** One session beside the list, with its live view. */

import { LiveViewPanel } from '#features/live-view/panel.tsx';
import { SessionDetail } from '#features/sessions/detail.tsx';
import { isReady } from '#features/sessions/facts.ts';
import { Action } from '#shared/action.tsx';
import type { Session } from '#shared/api.ts';

interface Props {
  readonly id: string;
  readonly session: Session | undefined;
  readonly whyNot: string | null;
  readonly onClose: () => void;
}

export function SessionPanel({ id, session, whyNot, onClose }: Props) {
  if (session === undefined) {
    return (
      <div className="empty">
        <strong>There is no session {id}</strong>
        <span>It was deleted, or never was.</span>
        <Action onAct={onClose}>Close</Action>
      </div>
    );
  }
  const picture =
    isReady(session) && session.vnc ? (
      <LiveViewPanel namespace={session.namespace} id={id} whyNotControl={whyNot} />
    ) : (
      <p className="no-picture">{whyNoPicture(session)}</p>
    );
  return <SessionDetail session={session} whyNot={whyNot} picture={picture} onClose={onClose} />;
}

function whyNoPicture({ state, vnc_enabled }: Session): string {
  if (state === 'Finished') return 'The session is over: there is nothing to see any more.';
  if (state !== 'Ready') return 'Its picture comes as soon as it is Ready.';
  return vnc_enabled
    ? 'The gateway has no address for its live view.'
    : 'It has no live view. Start one with the display “Live view” to watch it.';
}
