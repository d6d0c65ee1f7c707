/** What follows from a session, the moment, and what a person looks for. Pure. Times are milliseconds since 1970. */

import type { Session } from '#shared/api.ts';

/** The states, in the order of a session's life. */
export const states = ['Pending', 'Queued', 'Starting', 'Ready', 'Finished'] as const;

export interface Filter {
  readonly text: string;
  /** One of `states`, or empty for all. */
  readonly state: string;
}

export function isOver(session: Session): boolean {
  return session.state === 'Finished';
}

export function isReady(session: Session): boolean {
  return session.state === 'Ready';
}

/** Whether nothing has to be said of its state. */
export function isWell({ state, reason }: Session): boolean {
  return state === 'Ready' && (reason == null || reason === 'BrowserReady');
}

/** How long it has been there, or was until it was over. */
export function ageSeconds(session: Session, now: number): number {
  const until = session.finished_at ? Date.parse(session.finished_at) : now;
  return Math.max(0, (until - Date.parse(session.created_at)) / 1000);
}

/** After how long it ends if nobody does anything; null when that does not count down, or its runner was not heard yet. */
export function idleLeftSeconds(session: Session, now: number): number | null {
  if (!isReady(session) || session.idle_ttl_seconds == null || session.clients == null) return null;
  return Math.max(0, (Date.parse(session.last_seen_at) - now) / 1000 + session.idle_ttl_seconds);
}

/** After how long it ends whatever happens; null when it is over or nobody set a time. */
export function lifeLeftSeconds(session: Session, now: number): number | null {
  if (isOver(session) || session.deadline_at == null) return null;
  return Math.max(0, (Date.parse(session.deadline_at) - now) / 1000);
}

/** Those that wait, as they are served; then those that are used, and those that are over, the newest first. */
export function inOrder(sessions: Iterable<Session>): Session[] {
  const keyed = [...sessions].map((session) => ({
    session,
    rank: rank(session),
    made: Date.parse(session.created_at),
  }));
  keyed.sort((a, b) => {
    if (a.rank !== b.rank) return a.rank - b.rank;
    const age = a.rank === WAITING ? a.made - b.made : b.made - a.made;
    return age || (a.session.id < b.session.id ? -1 : 1);
  });
  return keyed.map(({ session }) => session);
}

const WAITING = 0;

function rank(session: Session): number {
  if (isOver(session)) return 2;
  return isReady(session) ? 1 : WAITING;
}

/** Whether all words of the text are somewhere in the session's name, pool, labels, address or reason. */
export function matches(session: Session, { text, state }: Filter): boolean {
  if (state !== '' && session.state !== state) return false;
  const labels = Object.entries(session.labels).map(([key, value]) => `${key}=${value}`);
  const all = [session.id, session.worker, ...labels, session.start_url ?? '', session.reason ?? '']
    .join('\n')
    .toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

/** What became of the start page, in a word; empty when there is none to speak of. */
export function startPage({ start_page }: Session): string {
  switch (start_page?.state) {
    case 'loading':
      return 'Loading';
    case 'loaded':
      return 'Loaded';
    case 'failed':
      return 'Failed';
    default:
      return '';
  }
}

/** A row of the table, which stays the same object while it looks the same. */
export interface RowOfSession {
  readonly id: string;
  readonly over: boolean;
}

/** The rows of the sessions: the former ones, and as a whole the former list, where they would look the same. */
export function rowsOf(sessions: readonly Session[], former: readonly RowOfSession[]): readonly RowOfSession[] {
  const known = new Map(former.map((row) => [row.id, row]));
  const rows = sessions.map((session) => {
    const [row, over] = [known.get(session.id), isOver(session)];
    return row?.over === over ? row : { id: session.id, over };
  });
  return rows.length === former.length && rows.every((row, at) => row === former[at]) ? former : rows;
}
