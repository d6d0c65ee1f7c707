/**
 * The rows of the session table. Pure. A row stays the same object while it looks the same, so React renders it once.
 */

import type { Session } from '#shared/api.ts';
import { isFinished } from './selectors.ts';

export interface TableRow {
  readonly id: string;
  readonly finished: boolean;
}

/** Returns the rows of `sessions`. Reuses each of the previous rows, and their array, where nothing changed. */
export function updateRows(sessions: readonly Session[], previous: readonly TableRow[]): readonly TableRow[] {
  const byId = new Map(previous.map((row) => [row.id, row]));
  const rows = sessions.map((session) => {
    const [row, finished] = [byId.get(session.id), isFinished(session)];
    return row?.finished === finished ? row : { id: session.id, finished };
  });
  return rows.length === previous.length && rows.every((row, index) => row === previous[index]) ? previous : rows;
}
