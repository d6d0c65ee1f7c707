/** The live view with a bar above it: view-only first, control when it is asked for. */

import { useCallback, useRef, useState } from 'react';
import { Action } from '#shared/action.tsx';
import type { State } from './connection.ts';
import { PictureOf } from './picture-of.tsx';
import { label } from './words.ts';

interface Props {
  readonly namespace: string;
  readonly id: string;
  /** Good for looking. */
  readonly viewToken: string | null;
  /** Gets a token that is good for control. */
  readonly askControl: () => Promise<string>;
  /** Why control may not be asked for; null when it may. */
  readonly whyNotControl: string | null;
}

export function LiveViewPanel({ namespace, id, viewToken, askControl, whyNotControl }: Props) {
  const [controlToken, setControlToken] = useState<string | null>(null);
  const [state, setState] = useState<State | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  const bar = useRef<HTMLDivElement>(null);
  const controls = controlToken !== null;

  const onState = useCallback(
    (now: State) => {
      setState(now);
      // Control that is refused, or whose token is over, is no reason to see nothing.
      if (controls && now.shown.is === 'refused') {
        setControlToken(null);
        setFault(`${now.shown.title}. You are watching again.`);
      }
    },
    [controls],
  );
  const toggle = async () => {
    setFault(null);
    if (controls) return setControlToken(null);
    try {
      setControlToken(await askControl());
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
  };
  const hash = viewToken === null ? '' : `#token=${viewToken}`;
  const whyNot = whyNotControl ?? (state?.shown.is === 'connected' ? null : 'There is no picture to control.');

  return (
    <section className="live-view-panel" aria-label="Live view">
      <div className="actions" ref={bar}>
        <span className="state" data-state={state?.shown.is === 'connected' ? 'Ready' : 'Pending'}>
          {state === null ? 'Connecting' : label(state)}
        </span>
        <Action onAct={toggle} whyNot={controls ? null : whyNot}>
          {controls ? 'Stop controlling' : 'Take control'}
        </Action>
        {controls && (
          <span className="muted">
            <kbd>Ctrl+Alt+Home</kbd> leaves the picture
          </span>
        )}
        {!controls && whyNotControl !== null && <span className="muted">{whyNotControl}</span>}
        <a href={`/view/${namespace}/${id}${hash}`} target="_blank" rel="noreferrer">
          Own page
        </a>
      </div>
      {fault !== null && (
        <p role="alert" className="fault">
          {fault}
        </p>
      )}
      <PictureOf
        key={controlToken ?? 'view'}
        namespace={namespace}
        id={id}
        token={controlToken ?? viewToken}
        wanted={controls ? 'control' : 'view'}
        onState={onState}
        onLeave={() => bar.current?.querySelector('button')?.focus()}
      />
    </section>
  );
}
