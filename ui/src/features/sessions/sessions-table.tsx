/**
 * The table of sessions, virtualized: only visible rows are in the document. The table has only the ids and their
 * order as its input, because React Aria rebuilds the whole collection when that changes. The cells read the sessions
 * from a store.
 */

import './sessions.css';
import { memo, type ReactNode, useMemo, useRef } from 'react';
import { Cell, Column, Row, Table, TableBody, TableHeader, TableLayout, Virtualizer } from 'react-aria-components';
import type { Session } from '#shared/api.ts';
import { formatDuration } from '#shared/duration.ts';
import { useNow } from '#shared/use-now.ts';
import { ageSeconds, idleSecondsLeft, isHealthy, startPageLabel } from './selectors.ts';
import { SessionStoreContext, useSessionStore, useStoredSession } from './session-store.ts';
import { StateBadge } from './state-badge.tsx';
import { type TableRow, updateRows } from './table-rows.ts';

interface Props {
  readonly sessions: readonly Session[];
  readonly selected: string | null;
  readonly onSelect: (id: string | null) => void;
  /** Shows only the columns that identify a session, beside an open panel. */
  readonly narrow: boolean;
  /** Shown when the table has no rows. */
  readonly empty: ReactNode;
}

interface TableColumn {
  readonly id: string;
  readonly name: string;
  readonly width: number | `${number}fr`;
  readonly minWidth?: number;
  readonly cell: (session: Session) => ReactNode;
}

const columns: readonly TableColumn[] = [
  { id: 'state', name: 'State', width: 108, cell: (session) => <StateBadge state={session.state} /> },
  {
    id: 'id',
    name: 'Session',
    width: '2fr',
    minWidth: 130,
    cell: ({ id }) => (
      <span className="name" title={id}>
        {id}
      </span>
    ),
  },
  { id: 'pool', name: 'Pool', width: '1fr', minWidth: 90, cell: ({ worker }) => worker || <EmptyCell text="any" /> },
  { id: 'age', name: 'Age', width: 112, cell: (session) => <Age session={session} /> },
  { id: 'idle', name: 'Idle time left', width: 116, cell: (session) => <IdleTimeLeft session={session} /> },
  { id: 'labels', name: 'Labels', width: '1.5fr', minWidth: 120, cell: ({ labels }) => <Labels labels={labels} /> },
  {
    id: 'details',
    name: 'Details',
    width: '2fr',
    minWidth: 170,
    cell: (session) => <StartPageOrReason session={session} />,
  },
];
const narrowColumns = columns.filter(({ id }) => ['state', 'id', 'pool', 'idle'].includes(id));

export function SessionsTable({ sessions, ...rest }: Props) {
  return (
    <SessionStoreContext value={useSessionStore(sessions)}>
      <Rows rows={useRows(sessions)} {...rest} />
    </SessionStoreContext>
  );
}

function useRows(sessions: readonly Session[]): readonly TableRow[] {
  const previous = useRef<readonly TableRow[]>([]);
  return useMemo(() => {
    previous.current = updateRows(sessions, previous.current);
    return previous.current;
  }, [sessions]);
}

interface RowsProps extends Omit<Props, 'sessions'> {
  readonly rows: readonly TableRow[];
}

const Rows = memo(function Rows({ rows, selected, onSelect, narrow, empty }: RowsProps) {
  const shownColumns = narrow ? narrowColumns : columns;
  return (
    <Virtualizer layout={TableLayout} layoutOptions={{ rowHeight: 34, headingHeight: 32 }}>
      <Table
        aria-label="Sessions"
        className="sessions"
        selectionMode="single"
        selectedKeys={selected === null ? [] : [selected]}
        onSelectionChange={(keys) => {
          const [key] = keys === 'all' ? [] : keys;
          onSelect(key === undefined ? null : String(key));
        }}
      >
        <TableHeader columns={shownColumns}>
          {({ id, name, width, minWidth }) => (
            <Column id={id} isRowHeader={id === 'id'} width={width} minWidth={minWidth ?? null}>
              {name}
            </Column>
          )}
        </TableHeader>
        <TableBody
          items={rows}
          dependencies={[shownColumns]}
          renderEmptyState={() => <div className="empty">{empty}</div>}
        >
          {({ id, finished }) => (
            <Row id={id} columns={shownColumns} textValue={id} className={finished ? 'row finished' : 'row'}>
              {({ cell }) => (
                <Cell>
                  <CellContent id={id} cell={cell} />
                </Cell>
              )}
            </Row>
          )}
        </TableBody>
      </Table>
    </Virtualizer>
  );
});

function CellContent({ id, cell }: { readonly id: string; readonly cell: TableColumn['cell'] }) {
  const session = useStoredSession(id);
  return session === undefined ? null : cell(session);
}

function Age({ session }: { readonly session: Session }) {
  return formatDuration(ageSeconds(session, useNow()));
}

function IdleTimeLeft({ session }: { readonly session: Session }) {
  const left = idleSecondsLeft(session, useNow());
  if (left === null) return <EmptyCell text="none" />;
  return <span className={left < 60 ? 'expires-soon' : ''}>{formatDuration(left)}</span>;
}

export function Labels({ labels }: { readonly labels: Session['labels'] }) {
  const texts = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return (
    <span className="labels" title={texts.join('\n')}>
      {texts.map((label) => (
        <span key={label}>{label}</span>
      ))}
    </span>
  );
}

function StartPageOrReason({ session }: { readonly session: Session }) {
  const { start_url, start_page, reason, message } = session;
  if (!isHealthy(session)) {
    return <span title={message ?? undefined}>{session.state === reason ? (message ?? '') : (reason ?? '')}</span>;
  }
  const startPage = startPageLabel(session);
  if (startPage === '') return <EmptyCell text="none" />;
  return (
    <span
      className={start_page?.state === 'failed' ? 'danger-text' : ''}
      title={start_page?.message ?? start_url ?? undefined}
    >
      {startPage} <span className="muted">{start_url}</span>
    </span>
  );
}

/** An empty cell, with a text for screen readers. */
function EmptyCell({ text }: { readonly text: string }) {
  return (
    <span className="muted">
      <span aria-hidden="true">–</span>
      <span className="visually-hidden">{text}</span>
    </span>
  );
}
