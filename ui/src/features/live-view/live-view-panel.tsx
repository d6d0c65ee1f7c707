/** The live view with a bar above it: view-only first, control when it is asked for. The login cookie is what it shows. */

import { useRef, useState } from 'react';
import { Action } from '#shared/action-button.tsx';
import { begin, type Role, type State } from './connection.ts';
import { PictureOf } from './session-screen.tsx';
import { controlOffer, label } from './status-text.ts';

interface Props {
  readonly namespace: string;
  readonly id: string;
  /** Why control may not be asked for; null when it may. */
  readonly whyNotControl: string | null;
}

export function LiveViewPanel({ namespace, id, whyNotControl }: Props) {
  const [wanted, setWanted] = useState<Role>('view');
  const [state, setState] = useState<State>(() => begin('view'));
  const bar = useRef<HTMLDivElement>(null);
  const { shown } = state;
  const controls = shown.is === 'connected' && shown.granted === 'control';
  const offer = controlOffer(state);
  const whyNot = controls ? null : (whyNotControl ?? offer.whyNot);

  return (
    <section className="live-view-panel" aria-label="Live view">
      <div className="actions" ref={bar}>
        <span className="state" data-state={shown.is === 'connected' ? 'Ready' : 'Pending'}>
          {label(state)}
        </span>
        <Action onAct={() => setWanted(offer.role)} whyNot={whyNot}>
          {offer.name}
        </Action>
        {controls && (
          <span className="muted">
            <kbd>Ctrl+Alt+Home</kbd> leaves the picture
          </span>
        )}
        {!controls && whyNotControl !== null && <span className="muted">{whyNotControl}</span>}
        <a href={`/view/${namespace}/${id}`} target="_blank" rel="noreferrer">
          Own page
        </a>
      </div>
      <PictureOf
        namespace={namespace}
        id={id}
        wanted={wanted}
        onState={setState}
        onLeave={() => bar.current?.querySelector('button')?.focus()}
      />
    </section>
  );
}
