/** The tab "Wall". The wall is a grid of live views, one for each Ready session that has one, with the scope `view`. */

import { SessionScreen } from '#features/live-view/session-screen.tsx';
import { ActionButton } from '#shared/action-button.tsx';
import type { Session } from '#shared/api.ts';
import { SelectField } from '#shared/select-field.tsx';
import { type Route, wallSizes } from './route.ts';
import type { Navigate } from './use-route.ts';
import { paginate } from './wall-pagination.ts';

interface Props {
  readonly sessions: readonly Session[];
  readonly route: Route;
  readonly navigate: Navigate;
}

export function WallTab({ sessions, route, navigate }: Props) {
  const { sessions: shown, page, pageCount } = paginate(sessions, route.wallSize, route.wallPage);
  return (
    <div className="wall">
      <div className="toolbar">
        <SelectField
          label="Per page"
          value={String(route.wallSize)}
          options={wallSizes.map((size) => [String(size), String(size)])}
          onChange={(value) =>
            navigate({ wallSize: wallSizes.find((size) => String(size) === value) ?? 4, wallPage: 1 })
          }
        />
        <ActionButton
          onPress={() => navigate({ wallPage: page - 1 })}
          disabledReason={page === 1 ? 'This is the first page.' : null}
        >
          Previous
        </ActionButton>
        <span role="status">
          Page {page} of {pageCount}
        </span>
        <ActionButton
          onPress={() => navigate({ wallPage: page + 1 })}
          disabledReason={page === pageCount ? 'This is the last page.' : null}
        >
          Next
        </ActionButton>
      </div>
      {shown.length === 0 ? (
        <div className="empty">
          <strong>There are no sessions to view</strong>
          <span>A session with the display “Live view” appears here when it is Ready.</span>
        </div>
      ) : (
        <ul className="wall-tiles" data-size={route.wallSize} aria-label="Live views">
          {shown.map((session) => (
            <li key={session.id}>
              <button
                type="button"
                className="name"
                onClick={() => navigate({ tab: 'sessions', session: session.id, startFormOpen: false })}
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
