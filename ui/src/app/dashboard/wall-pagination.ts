/** Divides the wall's live views into pages. Pure. */

import { isReady } from '#features/sessions/selectors.ts';
import type { Session } from '#shared/api.ts';

export interface WallPage {
  readonly sessions: readonly Session[];
  /** From 1; the last page when fewer exist than was requested. */
  readonly page: number;
  readonly pageCount: number;
}

/** Returns a page of the sessions that can be viewed, the oldest first, so that a new session moves no other. */
export function paginate(sessions: readonly Session[], pageSize: number, requestedPage: number): WallPage {
  const viewable = sessions
    .filter((session) => isReady(session) && session.vnc)
    .sort((a, b) => Date.parse(a.created_at) - Date.parse(b.created_at) || (a.id < b.id ? -1 : 1));
  const pageCount = Math.max(1, Math.ceil(viewable.length / pageSize));
  const page = Math.min(requestedPage, pageCount);
  return { sessions: viewable.slice((page - 1) * pageSize, page * pageSize), page, pageCount };
}
