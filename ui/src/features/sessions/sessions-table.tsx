/**
 * All sessions in one table, of which only the rows that are seen are drawn. The table itself knows only which sessions there
 * are, in which order: making it anew takes as long as a thousand rows do, and what changes all the time is in the cells.
 */

import './sessions.css';
import { memo, type ReactNode, useMemo, useRef } from 'react';
import { Cell, Column, Row, Table, TableBody, TableHeader, TableLayout, Virtualizer } from 'react-aria-components';
import type { Session } from '#shared/api.ts';
import { duration } from '#shared/duration.ts';
import { useNow } from '#shared/use-now.ts';
import { ageSeconds, idleLeftSeconds, isWell, type RowOfSession, rowsOf, startPage } from './selectors.ts';
import { SessionStoreContext, useSessionStore, useStoredSession } from './session-store.ts';
import { State } from './state-badge.tsx';

interface Props {
  readonly sessions: readonly Session[];
  readonly chosen: string | null;
  readonly onChoose: (id: string | null) => void;
  /** Only the columns by which a session is known: there is little room. */
  readonly narrow: boolean;
  /** What is said when there are none. */
  readonly empty: ReactNode;
}

interface ColumnOfSessions {
  readonly id: string;
  readonly name: string;
  readonly width: number | `${number}fr`;
  readonly minWidth?: number;
  readonly cell: (session: Session) => ReactNode;
}

const columns: readonly ColumnOfSessions[] = [
  { id: 'state', name: 'State', width: 108, cell: (session) => <State state={session.state} /> },
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
  { id: 'pool', name: 'Pool', width: '1fr', minWidth: 90, cell: ({ worker }) => worker || <Nothing words="any" /> },
  { id: 'age', name: 'Age', width: 112, cell: (session) => <Age session={session} /> },
  { id: 'idle', name: 'Idle time left', width: 116, cell: (session) => <IdleLeft session={session} /> },
  { id: 'labels', name: 'Labels', width: '1.5fr', minWidth: 120, cell: ({ labels }) => <Labels labels={labels} /> },
  {
    id: 'note',
    name: 'Start page or reason',
    width: '2fr',
    minWidth: 170,
    cell: (session) => <Note session={session} />,
  },
];
const narrowColumns = columns.filter(({ id }) => ['state', 'id', 'pool', 'idle'].includes(id));

export function SessionsTable({ sessions, ...rest }: Props) {
  return (
    <SessionStoreContext value={useSessionStore(sessions)}>
      <Rows items={useRows(sessions)} {...rest} />
    </SessionStoreContext>
  );
}

function useRows(sessions: readonly Session[]): readonly RowOfSession[] {
  const last = useRef<readonly RowOfSession[]>([]);
  return useMemo(() => {
    last.current = rowsOf(sessions, last.current);
    return last.current;
  }, [sessions]);
}

interface RowsProps extends Omit<Props, 'sessions'> {
  readonly items: readonly RowOfSession[];
}

const Rows = memo(function Rows({ items, chosen, onChoose, narrow, empty }: RowsProps) {
  const shown = narrow ? narrowColumns : columns;
  return (
    <Virtualizer layout={TableLayout} layoutOptions={{ rowHeight: 34, headingHeight: 32 }}>
      <Table
        aria-label="Sessions"
        className="sessions"
        selectionMode="single"
        selectedKeys={chosen === null ? [] : [chosen]}
        onSelectionChange={(keys) => {
          const [key] = keys === 'all' ? [] : keys;
          onChoose(key === undefined ? null : String(key));
        }}
      >
        <TableHeader columns={shown}>
          {({ id, name, width, minWidth }) => (
            <Column id={id} isRowHeader={id === 'id'} width={width} minWidth={minWidth ?? null}>
              {name}
            </Column>
          )}
        </TableHeader>
        <TableBody items={items} dependencies={[shown]} renderEmptyState={() => <div className="empty">{empty}</div>}>
          {({ id, over }) => (
            <Row id={id} columns={shown} textValue={id} className={over ? 'row over' : 'row'}>
              {({ cell }) => (
                <Cell>
                  <Content id={id} cell={cell} />
                </Cell>
              )}
            </Row>
          )}
        </TableBody>
      </Table>
    </Virtualizer>
  );
});

function Content({ id, cell }: { readonly id: string; readonly cell: ColumnOfSessions['cell'] }) {
  const session = useStoredSession(id);
  return session === undefined ? null : cell(session);
}

function Age({ session }: { readonly session: Session }) {
  return duration(ageSeconds(session, useNow()));
}

function IdleLeft({ session }: { readonly session: Session }) {
  const left = idleLeftSeconds(session, useNow());
  if (left === null) return <Nothing words="none" />;
  return <span className={left < 60 ? 'soon' : ''}>{duration(left)}</span>;
}

export function Labels({ labels }: { readonly labels: Session['labels'] }) {
  const all = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return (
    <span className="labels" title={all.join('\n')}>
      {all.map((label) => (
        <span key={label}>{label}</span>
      ))}
    </span>
  );
}

function Note({ session }: { readonly session: Session }) {
  const { start_url, start_page, reason, message } = session;
  if (!isWell(session)) {
    return <span title={message ?? undefined}>{session.state === reason ? (message ?? '') : (reason ?? '')}</span>;
  }
  const page = startPage(session);
  if (page === '') return <Nothing words="none" />;
  return (
    <span className={start_page?.state === 'failed' ? 'bad' : ''} title={start_page?.message ?? start_url ?? undefined}>
      {page} <span className="muted">{start_url}</span>
    </span>
  );
}

/** An empty cell, with a word for those who cannot see that it is empty. */
function Nothing({ words }: { readonly words: string }) {
  return (
    <span className="muted">
      <span aria-hidden="true">–</span>
      <span className="hidden-words">{words}</span>
    </span>
  );
}
