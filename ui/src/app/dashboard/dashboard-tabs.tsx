/** The dashboard of a user who is logged in: the top bar, and the tabs for sessions, pools and the wall. */

import { useQuery } from '@tanstack/react-query';
import { useMemo, useState } from 'react';
import { Tab, TabList, TabPanel, Tabs } from 'react-aria-components';
import { PoolList } from '#features/pools/pool-list.tsx';
import { sortSessions } from '#features/sessions/selectors.ts';
import { emptyForm } from '#features/sessions/start-request.ts';
import { ActionButton } from '#shared/action-button.tsx';
import { api, type Role, unwrap } from '#shared/api.ts';
import { formatDuration } from '#shared/duration.ts';
import { namespacesKey, useFleet } from '#shared/fleet-cache.ts';
import { SelectField } from '#shared/select-field.tsx';
import { useNow } from '#shared/use-now.ts';
import { useEventStream } from './event-stream.ts';
import type { Tab as TabName } from './route.ts';
import { SessionsTab } from './sessions-tab.tsx';
import { useRoute } from './use-route.ts';
import { WallTab } from './wall-tab.tsx';

interface Props {
  readonly role: Role;
  readonly onStreamRejected: () => void;
  readonly onLogOut: () => void;
  /** Why the logout failed; null when it did not. */
  readonly logOutError: string | null;
}

export function DashboardTabs({ role, onStreamRejected, onLogOut, logOutError }: Props) {
  const [route, navigate] = useRoute();
  const [draft, setDraft] = useState(emptyForm);
  const { disconnectedSince } = useEventStream(route.namespace, onStreamRejected);
  const fleet = useFleet(route.namespace);
  const sessions = useMemo(() => sortSessions(fleet?.sessions.values() ?? []), [fleet?.sessions]);
  const pools = useMemo(
    () => [...(fleet?.pools.values() ?? [])].sort((a, b) => (a.name < b.name ? -1 : 1)),
    [fleet?.pools],
  );

  return (
    <Tabs
      className="dashboard"
      selectedKey={route.tab}
      onSelectionChange={(key) => navigate({ tab: key as TabName })}
      keyboardActivation="manual"
    >
      <header className="top-bar">
        <h1>Camo-fleet</h1>
        <TabList aria-label="Dashboard sections">
          <Tab id="sessions">
            Sessions <span className="count">{sessions.length}</span>
          </Tab>
          <Tab id="pools">
            Pools <span className="count">{pools.length}</span>
          </Tab>
          <Tab id="wall">Wall</Tab>
        </TabList>
        <NamespaceSelect
          selected={route.namespace}
          onSelect={(namespace) => navigate({ namespace, session: null, startFormOpen: false, wallPage: 1 })}
        />
        <span className="login-status">
          <span className="muted">Logged in as {role}</span>
          {logOutError !== null && <span role="alert">{logOutError}</span>}
          <ActionButton onPress={onLogOut}>Log out</ActionButton>
        </span>
      </header>
      <div role="status" className="disconnected" hidden={disconnectedSince === null}>
        {disconnectedSince !== null && <DisconnectedNotice since={disconnectedSince} />}
      </div>
      {fleet === undefined ? (
        <main>
          <p className="empty">{disconnectedSince === null ? 'Loading…' : 'Waiting for the gateway to answer.'}</p>
        </main>
      ) : (
        <main>
          <TabPanel id="sessions">
            <SessionsTab
              sessions={sessions}
              pools={pools}
              role={role}
              route={route}
              navigate={navigate}
              draft={draft}
              onDraftChange={setDraft}
            />
          </TabPanel>
          <TabPanel id="pools">
            <PoolList pools={pools} />
          </TabPanel>
          <TabPanel id="wall">
            <WallTab sessions={sessions} route={route} navigate={navigate} />
          </TabPanel>
        </main>
      )}
    </Tabs>
  );
}

/** Selects the namespace. Renders nothing when only one exists. */
function NamespaceSelect({
  selected,
  onSelect,
}: {
  readonly selected: string | null;
  readonly onSelect: (namespace: string | null) => void;
}) {
  const { data } = useQuery({
    queryKey: namespacesKey,
    queryFn: () => unwrap(api.GET('/namespaces')),
    refetchInterval: NAMESPACES_INTERVAL_MS,
  });
  if (data === undefined) return null;
  const shown = selected ?? data.own;
  const names = [...new Set([...data.namespaces, shown])].sort();
  if (names.length === 1) return null;
  return (
    <SelectField
      label="Namespace"
      value={shown}
      options={names.map((name) => [name, name])}
      onChange={(name) => onSelect(name === data.own ? null : name)}
    />
  );
}

/** Polling interval, because the gateway sends no event for namespaces. */
const NAMESPACES_INTERVAL_MS = 30_000;

function DisconnectedNotice({ since }: { readonly since: number }) {
  const now = useNow();
  return (
    <>
      The connection to the gateway is lost. The page reconnects automatically.{' '}
      <span aria-hidden="true">It was last updated {formatDuration((now - since) / 1000)} ago.</span>
    </>
  );
}
