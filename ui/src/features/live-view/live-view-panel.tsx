/** A live view with a toolbar. It begins with the scope `view`, and authenticates with the login cookie. */

import { useRef, useState } from 'react';
import { ActionButton } from '#shared/action-button.tsx';
import { type ConnectionState, initialState, type Scope } from './connection.ts';
import { SessionScreen } from './session-screen.tsx';
import { controlButtonOf, phaseLabel } from './status-text.ts';

interface Props {
  readonly namespace: string;
  readonly id: string;
  /** Why the user cannot request control; null if they can. */
  readonly controlDisabledReason: string | null;
}

export function LiveViewPanel({ namespace, id, controlDisabledReason }: Props) {
  const [scope, setScope] = useState<Scope>('view');
  const [state, setState] = useState<ConnectionState>(() => initialState('view'));
  const toolbar = useRef<HTMLDivElement>(null);
  const { phase } = state;
  const hasControl = phase.type === 'connected' && phase.granted === 'control';
  const button = controlButtonOf(state);
  const disabledReason = hasControl ? null : (controlDisabledReason ?? button.disabledReason);

  return (
    <section className="live-view-panel" aria-label="Live view">
      <div className="actions" ref={toolbar}>
        <span className="state" data-state={phase.type === 'connected' ? 'Ready' : 'Pending'}>
          {phaseLabel(state)}
        </span>
        <ActionButton onPress={() => setScope(button.scope)} disabledReason={disabledReason}>
          {button.label}
        </ActionButton>
        {hasControl && (
          <span className="muted">
            <kbd>Ctrl+Alt+Home</kbd> releases the keyboard
          </span>
        )}
        {!hasControl && controlDisabledReason !== null && <span className="muted">{controlDisabledReason}</span>}
        <a href={`/view/${namespace}/${id}`} target="_blank" rel="noreferrer">
          Open in new tab
        </a>
      </div>
      <SessionScreen
        namespace={namespace}
        id={id}
        scope={scope}
        onStateChange={setState}
        onKeyboardRelease={() => toolbar.current?.querySelector('button')?.focus()}
      />
    </section>
  );
}
