/** What who is logged in sees: the tabs, and beside the list of sessions one of them. */

import { useQuery } from '@tanstack/react-query';
import { useMemo, useState } from 'react';
import { Tab, TabList, TabPanel, Tabs } from 'react-aria-components';
import { Pools } from '#features/pools/pool-list.tsx';
import { inOrder } from '#features/sessions/selectors.ts';
import { empty } from '#features/sessions/start-request.ts';
import { Action } from '#shared/action-button.tsx';
import { answer, api, type Role } from '#shared/api.ts';
import { duration } from '#shared/duration.ts';
import { namespacesKey, useFleet } from '#shared/fleet-cache.ts';
import { Choice } from '#shared/select-field.tsx';
import { useNow } from '#shared/use-now.ts';
import { useStream } from './event-stream.ts';
import type { Tab as TabName } from './route.ts';
import { Sessions } from './sessions-tab.tsx';
import { usePlace } from './use-route.ts';
import { Wall } from './wall-tab.tsx';

interface Props {
  readonly role: Role;
  readonly onRefused: () => void;
  readonly onLogOut: () => void;
  /** Why that came to nothing. */
  readonly whyNotOut: string | null;
}

export function Fleet({ role, onRefused, onLogOut, whyNotOut }: Props) {
  const [place, go] = usePlace();
  const [draft, setDraft] = useState(empty);
  const { lostAt } = useStream(place.namespace, onRefused);
  const fleet = useFleet(place.namespace);
  const sessions = useMemo(() => inOrder(fleet?.sessions.values() ?? []), [fleet?.sessions]);
  const pools = useMemo(
    () => [...(fleet?.workers.values() ?? [])].sort((a, b) => (a.name < b.name ? -1 : 1)),
    [fleet?.workers],
  );

  return (
    <Tabs
      className="fleet"
      selectedKey={place.tab}
      onSelectionChange={(key) => go({ tab: key as TabName })}
      keyboardActivation="manual"
    >
      <header className="bar">
        <h1>Camo-fleet</h1>
        <TabList aria-label="Parts of the dashboard">
          <Tab id="sessions">
            Sessions <span className="count">{sessions.length}</span>
          </Tab>
          <Tab id="pools">
            Pools <span className="count">{pools.length}</span>
          </Tab>
          <Tab id="wall">Wall</Tab>
        </TabList>
        <Namespaces
          chosen={place.namespace}
          onChoose={(namespace) => go({ namespace, session: null, starting: false, page: 1 })}
        />
        <span className="who">
          <span className="muted">Logged in as {role}</span>
          {whyNotOut !== null && <span role="alert">{whyNotOut}</span>}
          <Action onAct={onLogOut}>Log out</Action>
        </span>
      </header>
      <div role="status" className="lost" hidden={lostAt === null}>
        {lostAt !== null && <Lost since={lostAt} />}
      </div>
      {fleet === undefined ? (
        <main>
          <p className="empty">
            {lostAt === null ? 'Loading…' : 'There is nothing to show until the gateway answers.'}
          </p>
        </main>
      ) : (
        <main>
          <TabPanel id="sessions">
            <Sessions
              sessions={sessions}
              pools={pools}
              role={role}
              place={place}
              go={go}
              draft={draft}
              onDraft={setDraft}
            />
          </TabPanel>
          <TabPanel id="pools">
            <Pools pools={pools} />
          </TabPanel>
          <TabPanel id="wall">
            <Wall sessions={sessions} place={place} go={go} />
          </TabPanel>
        </main>
      )}
    </Tabs>
  );
}

/** Which namespace is shown; nothing where there is only one. */
function Namespaces({
  chosen,
  onChoose,
}: {
  readonly chosen: string | null;
  readonly onChoose: (namespace: string | null) => void;
}) {
  const { data } = useQuery({
    queryKey: namespacesKey,
    queryFn: () => answer(api.GET('/namespaces')),
    refetchInterval: NAMESPACES_MS,
  });
  if (data === undefined) return null;
  const shown = chosen ?? data.own;
  const names = [...new Set([...data.namespaces, shown])].sort();
  if (names.length === 1) return null;
  return (
    <Choice
      label="Namespace"
      value={shown}
      options={names.map((name) => [name, name])}
      onChange={(name) => onChoose(name === data.own ? null : name)}
    />
  );
}

/** There is no event for them. */
const NAMESPACES_MS = 30_000;

function Lost({ since }: { readonly since: number }) {
  const now = useNow();
  return (
    <>
      The connection to the gateway is lost. What you see is{' '}
      <span aria-hidden="true">{duration((now - since) / 1000)}</span> old; the page connects again by itself.
    </>
  );
}
