/** Which live views the wall shows. Pure. */

import { isReady } from '#features/sessions/selectors.ts';
import type { Session } from '#shared/api.ts';

export interface WallPage {
  readonly shown: readonly Session[];
  /** From 1; the last one when there are fewer than what was asked for. */
  readonly page: number;
  readonly pages: number;
}

/** The sessions that can be watched, the oldest first: so a new one moves none of the others. */
export function wallPage(sessions: readonly Session[], size: number, asked: number): WallPage {
  const watched = sessions
    .filter((session) => isReady(session) && session.vnc)
    .sort((a, b) => Date.parse(a.created_at) - Date.parse(b.created_at) || (a.id < b.id ? -1 : 1));
  const pages = Math.max(1, Math.ceil(watched.length / size));
  const page = Math.min(asked, pages);
  return { shown: watched.slice((page - 1) * size, page * size), page, pages };
}
