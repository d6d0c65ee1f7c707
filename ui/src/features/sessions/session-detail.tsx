/** One session: its live view, its actions and its properties. */

import { useMutation, useQuery } from '@tanstack/react-query';
import { type ReactNode, useRef, useState } from 'react';
import { Dialog, Heading, Modal, ModalOverlay } from 'react-aria-components';
import { ActionButton } from '#shared/action-button.tsx';
import { apiFor, type Session, unwrap } from '#shared/api.ts';
import { copyField } from '#shared/clipboard.ts';
import { formatDuration } from '#shared/duration.ts';
import { useNow } from '#shared/use-now.ts';
import { playwrightSnippet } from './playwright-snippet.ts';
import {
  ageSeconds,
  idleSecondsLeft,
  isFinished,
  isHealthy,
  isReady,
  lifetimeSecondsLeft,
  startPageLabel,
} from './selectors.ts';
import { Labels } from './sessions-table.tsx';
import { StateBadge } from './state-badge.tsx';

interface Props {
  readonly session: Session;
  /** Why the user cannot change the session; null if they can. */
  readonly readOnlyReason: string | null;
  /** The live view, or a placeholder. */
  readonly picture: ReactNode;
  /** A call returned the session's new state. */
  readonly onUpdate: (session: Session) => void;
  readonly onClose: () => void;
}

export function SessionDetail({ session, readOnlyReason, picture, onUpdate, onClose }: Props) {
  const { namespace, worker, id } = session;
  const api = apiFor(namespace);
  // "-" stands for any pool: a session that waits may not have one yet.
  const params = { path: { worker: worker || '-', id } };
  const touch = useMutation({
    mutationFn: () => unwrap(api.POST('/sessions/{worker}/{id}/touch', { params })),
    onSuccess: onUpdate,
  });
  const end = useMutation({ mutationFn: () => unwrap(api.DELETE('/sessions/{worker}/{id}', { params })) });
  const connect = useMutation({
    mutationFn: () =>
      unwrap(
        api.POST('/sessions/{worker}/{id}/tokens', {
          params,
          body: { scope: 'connect', ttl_seconds: CONNECT_TOKEN_SECONDS },
        }),
      ),
  });
  const latest = [touch, end, connect].reduce((a, b) => (b.submittedAt > a.submittedAt ? b : a));
  const { error } = latest;
  const notUsableReason = readOnlyReason ?? (isReady(session) ? null : `The session is ${session.state}, not Ready.`);

  return (
    <article className="detail" aria-label={`Session ${id}`}>
      <header>
        <h2 className="name" tabIndex={-1}>
          {id}
        </h2>
        <StateBadge state={session.state} />
        <ActionButton onPress={onClose}>Close</ActionButton>
      </header>
      {picture}
      <div className="actions">
        <ActionButton onPress={() => connect.mutate()} disabledReason={notUsableReason} primary>
          Playwright snippet
        </ActionButton>
        <ActionButton onPress={() => touch.mutate()} disabledReason={notUsableReason}>
          Reset idle time
        </ActionButton>
        <EndButton
          id={id}
          disabledReason={readOnlyReason ?? (isFinished(session) ? 'The session has finished.' : null)}
          onConfirm={() => end.mutate()}
        />
        {latest === touch && touch.isSuccess && (
          <span className="muted" role="status">
            The idle time was reset.
          </span>
        )}
      </div>
      {error !== null && (
        <p role="alert" className="error-text">
          {error.message}
        </p>
      )}
      {connect.data !== undefined && isReady(session) && (
        <Snippet text={playwrightSnippet(webSocketUrl(session), connect.data.token)} />
      )}
      <Properties session={session} />
    </article>
  );
}

const CONNECT_TOKEN_SECONDS = 3600;

/** Uses the origin of this page, because that is known to be reachable from this machine. */
function webSocketUrl({ namespace, id }: Session): string {
  return new URL(`/ws/${namespace}/${id}`, location.href).href.replace(/^http/, 'ws');
}

function Snippet({ text }: { readonly text: string }) {
  const field = useRef<HTMLTextAreaElement>(null);
  const [status, setStatus] = useState('');
  const copy = async () => {
    if (field.current === null) return;
    setStatus((await copyField(field.current)) ? 'Copied.' : 'The browser blocked the copy. Press Ctrl+C.');
  };
  return (
    <div className="snippet">
      <textarea
        ref={field}
        className="react-aria-TextArea"
        aria-label="Playwright snippet"
        readOnly
        rows={3}
        value={text}
      />
      <div className="actions">
        <ActionButton onPress={copy}>Copy</ActionButton>
        <span className="muted" role="status">
          {status || 'JavaScript. The token is valid for this session only, for one hour.'}
        </span>
      </div>
    </div>
  );
}

function EndButton({
  id,
  disabledReason,
  onConfirm,
}: {
  readonly id: string;
  readonly disabledReason: string | null;
  readonly onConfirm: () => void;
}) {
  const [isOpen, setIsOpen] = useState(false);
  return (
    <>
      <ActionButton onPress={() => setIsOpen(true)} disabledReason={disabledReason}>
        End…
      </ActionButton>
      <ModalOverlay className="overlay" isOpen={isOpen} onOpenChange={setIsOpen} isDismissable>
        <Modal>
          <Dialog role="alertdialog">
            <Heading slot="title">End this session?</Heading>
            <p>
              The browser of <span className="name">{id}</span> is closed with all its pages. Playwright and live-view
              clients are disconnected.
            </p>
            <div className="actions">
              <ActionButton onPress={() => setIsOpen(false)}>Cancel</ActionButton>
              <ActionButton
                primary
                onPress={() => {
                  setIsOpen(false);
                  onConfirm();
                }}
              >
                End session
              </ActionButton>
            </div>
          </Dialog>
        </Modal>
      </ModalOverlay>
    </>
  );
}

/** How many sessions are ahead in the queue. Polled, because it changes with other sessions and has no event. */
function useQueuePosition({ state, worker, namespace, id }: Session): number | null | undefined {
  const params = { path: { worker: worker || '-', id } };
  const { data } = useQuery({
    queryKey: ['queue-position', namespace, id],
    queryFn: () => unwrap(apiFor(namespace).GET('/sessions/{worker}/{id}', { params })),
    enabled: state === 'Queued',
    refetchInterval: QUEUE_POSITION_MS,
  });
  return state === 'Queued' ? data?.queue_position : null;
}

const QUEUE_POSITION_MS = 2_000;

function Properties({ session }: { readonly session: Session }) {
  const now = useNow();
  const position = useQueuePosition(session);
  const idle = idleSecondsLeft(session, now);
  const lifetime = lifetimeSecondsLeft(session, now);
  const page = startPageLabel(session);
  const browser = [session.browser, session.browser_version].filter(Boolean).join(' ');
  const labels = Object.keys(session.labels).length === 0 ? null : <Labels labels={session.labels} />;
  const properties: readonly (readonly [string, ReactNode])[] = [
    ['Reason', isHealthy(session) ? null : session.reason],
    ['Message', isHealthy(session) ? null : session.message],
    ['Pool', session.worker],
    ['Ahead in the queue', position == null ? null : `${position} ${position === 1 ? 'session' : 'sessions'}`],
    ['Runner', session.runner],
    ['Browser', browser],
    ['Playwright', session.playwright_version],
    ['Clients', session.clients],
    ['Age', formatDuration(ageSeconds(session, now))],
    ['Idle time left', idle === null ? null : formatDuration(idle)],
    ['Lifetime left', lifetime === null ? null : formatDuration(lifetime)],
    ['Start page', session.start_url == null ? null : `${session.start_url}${page === '' ? '' : ` (${page})`}`],
    ['Start page error', session.start_page?.state === 'failed' ? session.start_page.message : null],
    ['Labels', labels],
  ];
  return (
    <dl className="properties">
      {properties.map(
        ([name, value]) =>
          value != null &&
          value !== '' && (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ),
      )}
    </dl>
  );
}
