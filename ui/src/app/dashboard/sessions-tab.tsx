/** The tab of sessions: what to look for, the list, and beside it one of them. */

import { useQueryClient } from '@tanstack/react-query';
import { useCallback, useDeferredValue, useMemo, useRef } from 'react';
import { Button, Input, SearchField } from 'react-aria-components';
import { matches, states } from '#features/sessions/selectors.ts';
import { SessionsTable } from '#features/sessions/sessions-table.tsx';
import { StartForm } from '#features/sessions/start-form.tsx';
import { empty, type Values } from '#features/sessions/start-request.ts';
import { Action } from '#shared/action-button.tsx';
import type { Role, Session, Worker } from '#shared/api.ts';
import { putEvents } from '#shared/fleet-cache.ts';
import { Choice } from '#shared/select-field.tsx';
import type { Place } from './route.ts';
import { SessionPanel } from './session-panel.tsx';

interface Props {
  readonly sessions: readonly Session[];
  readonly pools: readonly Worker[];
  readonly role: Role;
  readonly place: Place;
  readonly go: (change: Partial<Place>) => void;
  /** What is filled in to start a session. */
  readonly draft: Values;
  readonly onDraft: (change: (before: Values) => Values) => void;
}

const noSessions = (
  <>
    <strong>There are no sessions</strong>
    <span>Start one here, by the REST API or with kubectl.</span>
  </>
);
const noneLikeThat = (
  <>
    <strong>No session is like that</strong>
    <span>Look for something else, or for all states.</span>
  </>
);

export function Sessions({ sessions, pools, role, place, go, draft, onDraft }: Props) {
  // Typing stays quick while a long list is made anew.
  const text = useDeferredValue(place.text);
  const found = useMemo(
    () => sessions.filter((session) => matches(session, { text, state: place.state })),
    [sessions, text, place.state],
  );
  const whyNot = role === 'admin' ? null : 'Your token is a viewer’s: it allows only to look.';
  const beside = place.session !== null || place.starting;
  // Before the stream tells it, which may be another replica's.
  const cache = useQueryClient();
  const tell = (session: Session) => putEvents(cache, place.namespace, [{ type: 'session', session }]);
  const page = useRef<HTMLDivElement>(null);
  /** Once it is drawn: what had the focus goes with what is closed. */
  const focus = (selector: string) =>
    requestAnimationFrame(() => page.current?.querySelector<HTMLElement>(selector)?.focus());
  const close = () => {
    go({ session: null, starting: false });
    focus(place.session === null ? '.toolbar .primary' : `[role="row"][data-key="${CSS.escape(place.session)}"]`);
  };
  const choose = useCallback((session: string | null) => go({ session, starting: false }), [go]);
  const chosen = sessions.find(({ id }) => id === place.session);
  return (
    <div className="split" data-beside={beside} ref={page}>
      <section aria-label="List of sessions">
        <div className="toolbar">
          <SearchField aria-label="Search" value={place.text} onChange={(text) => go({ text })}>
            <Input placeholder="Name, pool, label, address, reason" />
            <Button aria-label="Clear the search">×</Button>
          </SearchField>
          <Choice
            label="State"
            value={place.state}
            options={[['', 'All states'], ...states.map((state) => [state, state] as const)]}
            onChange={(state) => go({ state })}
          />
          <span className="muted" role="status">
            {found.length === sessions.length
              ? `${sessions.length} ${sessions.length === 1 ? 'session' : 'sessions'}`
              : `${found.length} of ${sessions.length}`}
          </span>
          <Action
            primary
            onAct={() => {
              go({ starting: true, session: null });
              focus('aside h2');
            }}
            whyNot={whyNot ?? (pools.length === 0 ? 'There is no pool to serve it.' : null)}
          >
            Start session
          </Action>
        </div>
        <SessionsTable
          sessions={found}
          chosen={place.session}
          onChoose={choose}
          narrow={beside}
          empty={sessions.length === 0 ? noSessions : noneLikeThat}
        />
      </section>
      {beside && (
        <aside aria-label={place.starting ? 'New session' : 'Chosen session'}>
          {place.starting ? (
            <StartForm
              namespace={place.namespace}
              pools={pools.map(({ name }) => name)}
              draft={draft}
              onDraft={onDraft}
              whyNot={whyNot}
              onStarted={(session) => {
                tell(session);
                onDraft(() => empty);
                go({ session: session.id, starting: false });
                focus('aside h2');
              }}
              onClose={() => {
                onDraft(() => empty);
                close();
              }}
            />
          ) : (
            place.session !== null && (
              <SessionPanel
                // One that was made again under its name is another.
                key={`${place.session} ${chosen?.created_at}`}
                id={place.session}
                session={chosen}
                whyNot={whyNot}
                onNews={tell}
                onClose={close}
              />
            )
          )}
        </aside>
      )}
    </div>
  );
}
