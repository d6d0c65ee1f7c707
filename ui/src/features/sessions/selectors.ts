/**
 * Derives what the dashboard shows from a session, the time and the user's filter. Pure. Times are milliseconds since
 * 1970.
 */

import type { Session } from '#shared/api.ts';

/** In the order of a session's life. */
export const sessionStates = ['Pending', 'Queued', 'Starting', 'Ready', 'Finished'] as const;

export interface SessionFilter {
  readonly text: string;
  /** One of `sessionStates`, or empty for all. */
  readonly state: string;
}

export function isFinished(session: Session): boolean {
  return session.state === 'Finished';
}

export function isReady(session: Session): boolean {
  return session.state === 'Ready';
}

/** Whether the session is ready and its state needs no explanation. */
export function isHealthy({ state, reason }: Session): boolean {
  return state === 'Ready' && (reason == null || reason === 'BrowserReady');
}

/** The age of the session, or of a finished one the age that it reached. */
export function ageSeconds(session: Session, now: number): number {
  const until = session.finished_at ? Date.parse(session.finished_at) : now;
  return Math.max(0, (until - Date.parse(session.created_at)) / 1000);
}

/** Seconds until the idle timeout; null when it does not count down, or the runner has not reported the session yet. */
export function idleSecondsLeft(session: Session, now: number): number | null {
  if (!isReady(session) || session.idle_ttl_seconds == null || session.clients == null) return null;
  return Math.max(0, (Date.parse(session.last_seen_at) - now) / 1000 + session.idle_ttl_seconds);
}

/** Seconds until the maximum lifetime; null when the session is finished or has no maximum. */
export function lifetimeSecondsLeft(session: Session, now: number): number | null {
  if (isFinished(session) || session.deadline_at == null) return null;
  return Math.max(0, (Date.parse(session.deadline_at) - now) / 1000);
}

/**
 * Sorts sessions: waiting ones in the order of their creation, then ready ones, then finished ones, both newest
 * first.
 */
export function sortSessions(sessions: Iterable<Session>): Session[] {
  const keyed = [...sessions].map((session) => ({
    session,
    rank: rank(session),
    createdAt: Date.parse(session.created_at),
  }));
  keyed.sort((a, b) => {
    if (a.rank !== b.rank) return a.rank - b.rank;
    const order = a.rank === WAITING ? a.createdAt - b.createdAt : b.createdAt - a.createdAt;
    return order || (a.session.id < b.session.id ? -1 : 1);
  });
  return keyed.map(({ session }) => session);
}

const WAITING = 0;

function rank(session: Session): number {
  if (isFinished(session)) return 2;
  return isReady(session) ? 1 : WAITING;
}

/** Whether each word of the text occurs in the session's name, pool, labels, start URL or reason. */
export function matchesFilter(session: Session, { text, state }: SessionFilter): boolean {
  if (state !== '' && session.state !== state) return false;
  const labels = Object.entries(session.labels).map(([key, value]) => `${key}=${value}`);
  const searched = [session.id, session.worker, ...labels, session.start_url ?? '', session.reason ?? '']
    .join('\n')
    .toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => searched.includes(word));
}

/** The state of the start page in one word; empty when there is no start page. */
export function startPageLabel({ start_page }: Session): string {
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
