/** The sessions tab: search, table, and a panel with the selected session or the form that starts one. */

import { useQueryClient } from '@tanstack/react-query';
import { useCallback, useDeferredValue, useMemo, useRef } from 'react';
import { Button, Input, SearchField } from 'react-aria-components';
import { matchesFilter, sessionStates } from '#features/sessions/selectors.ts';
import { SessionsTable } from '#features/sessions/sessions-table.tsx';
import { StartForm } from '#features/sessions/start-form.tsx';
import { emptyForm, type FormValues } from '#features/sessions/start-request.ts';
import { ActionButton } from '#shared/action-button.tsx';
import type { Pool, Role, Session } from '#shared/api.ts';
import { applyEvents } from '#shared/fleet-cache.ts';
import { SelectField } from '#shared/select-field.tsx';
import type { Route } from './route.ts';
import { SessionPanel } from './session-panel.tsx';
import type { Navigate } from './use-route.ts';

interface Props {
  readonly sessions: readonly Session[];
  readonly pools: readonly Pool[];
  readonly role: Role;
  readonly route: Route;
  readonly navigate: Navigate;
  /** The values of the form that starts a session. */
  readonly draft: FormValues;
  readonly onDraftChange: (update: (draft: FormValues) => FormValues) => void;
}

const noSessions = (
  <>
    <strong>There are no sessions</strong>
    <span>Start one here, with the REST API or with kubectl.</span>
  </>
);
const noMatches = (
  <>
    <strong>No session matches</strong>
    <span>Change the search text, or select all states.</span>
  </>
);

export function SessionsTab({ sessions, pools, role, route, navigate, draft, onDraftChange }: Props) {
  // Keeps typing responsive while a long table renders.
  const text = useDeferredValue(route.searchText);
  const found = useMemo(
    () => sessions.filter((session) => matchesFilter(session, { text, state: route.state })),
    [sessions, text, route.state],
  );
  const readOnlyReason =
    role === 'admin' ? null : 'The role viewer permits no changes. Log in with an admin token to make them.';
  const isPanelOpen = route.session !== null || route.startFormOpen;
  const cache = useQueryClient();
  // Shows the answer of a call at once: the stream may come from another replica of the gateway, which learns of it
  // later.
  const update = (session: Session) => applyEvents(cache, route.namespace, [{ type: 'session', session }]);
  const container = useRef<HTMLDivElement>(null);
  /** Moves the focus after the next render, because closing a panel removes the element that had it. */
  const focus = (selector: string) =>
    requestAnimationFrame(() => container.current?.querySelector<HTMLElement>(selector)?.focus());
  const close = () => {
    navigate({ session: null, startFormOpen: false });
    focus(route.session === null ? '.toolbar .primary' : `[role="row"][data-key="${CSS.escape(route.session)}"]`);
  };
  const select = useCallback((session: string | null) => navigate({ session, startFormOpen: false }), [navigate]);
  const selected = sessions.find(({ id }) => id === route.session);
  return (
    <div className="split" data-panel-open={isPanelOpen} ref={container}>
      <section aria-label="List of sessions">
        <div className="toolbar">
          <SearchField aria-label="Search" value={route.searchText} onChange={(searchText) => navigate({ searchText })}>
            <Input placeholder="Name, pool, label, URL or reason" />
            <Button aria-label="Clear search">×</Button>
          </SearchField>
          <SelectField
            label="State"
            value={route.state}
            options={[['', 'All states'], ...sessionStates.map((state) => [state, state] as const)]}
            onChange={(state) => navigate({ state })}
          />
          <span className="muted" role="status">
            {found.length === sessions.length
              ? `${sessions.length} ${sessions.length === 1 ? 'session' : 'sessions'}`
              : `${found.length} of ${sessions.length}`}
          </span>
          <ActionButton
            primary
            onPress={() => {
              navigate({ startFormOpen: true, session: null });
              focus('aside h2');
            }}
            disabledReason={readOnlyReason ?? (pools.length === 0 ? 'There is no pool yet: create one first.' : null)}
          >
            Start session
          </ActionButton>
        </div>
        <SessionsTable
          sessions={found}
          selected={route.session}
          onSelect={select}
          narrow={isPanelOpen}
          empty={sessions.length === 0 ? noSessions : noMatches}
        />
      </section>
      {isPanelOpen && (
        <aside aria-label={route.startFormOpen ? 'New session' : 'Selected session'}>
          {route.startFormOpen ? (
            <StartForm
              namespace={route.namespace}
              pools={pools.map(({ name }) => name)}
              draft={draft}
              onDraftChange={onDraftChange}
              disabledReason={readOnlyReason}
              onStarted={(session) => {
                update(session);
                onDraftChange(() => emptyForm);
                navigate({ session: session.id, startFormOpen: false });
                focus('aside h2');
              }}
              onClose={() => {
                onDraftChange(() => emptyForm);
                close();
              }}
            />
          ) : (
            route.session !== null && (
              <SessionPanel
                // A session that was deleted and created again under the same name is another session.
                key={`${route.session} ${selected?.created_at}`}
                id={route.session}
                session={selected}
                readOnlyReason={readOnlyReason}
                onUpdate={update}
                onClose={close}
              />
            )
          )}
        </aside>
      )}
    </div>
  );
}
