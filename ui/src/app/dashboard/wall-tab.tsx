/** The tab with many live views at once, all of them only to look at. */

import { SessionScreen } from '#features/live-view/session-screen.tsx';
import { Action } from '#shared/action-button.tsx';
import type { Session } from '#shared/api.ts';
import { Choice } from '#shared/select-field.tsx';
import { type Place, wallSizes } from './route.ts';
import { wallPage } from './wall-pagination.ts';

interface Props {
  readonly sessions: readonly Session[];
  readonly place: Place;
  readonly go: (change: Partial<Place>) => void;
}

export function Wall({ sessions, place, go }: Props) {
  const { shown, page, pages } = wallPage(sessions, place.wallSize, place.page);
  return (
    <div className="wall">
      <div className="toolbar">
        <Choice
          label="At once"
          value={String(place.wallSize)}
          options={wallSizes.map((size) => [String(size), String(size)])}
          onChange={(value) => go({ wallSize: wallSizes.find((size) => String(size) === value) ?? 4, page: 1 })}
        />
        <Action onAct={() => go({ page: page - 1 })} whyNot={page === 1 ? 'This is the first page.' : null}>
          Previous
        </Action>
        <span role="status">
          Page {page} of {pages}
        </span>
        <Action onAct={() => go({ page: page + 1 })} whyNot={page === pages ? 'This is the last page.' : null}>
          Next
        </Action>
      </div>
      {shown.length === 0 ? (
        <div className="empty">
          <strong>There is nothing to watch</strong>
          <span>Sessions that are started with the display “Live view” are here once they are Ready.</span>
        </div>
      ) : (
        <ul className="tiles" data-size={place.wallSize} aria-label="Live views">
          {shown.map((session) => (
            <li key={session.id}>
              <button
                type="button"
                className="name"
                onClick={() => go({ tab: 'sessions', session: session.id, starting: false })}
              >
                {session.id}
              </button>
              <SessionScreen namespace={session.namespace} id={session.id} scope="view" />
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
