/** One session beside the list: what is known of it, and what can be done with it. */

import { useMutation, useQuery } from '@tanstack/react-query';
import { type ReactNode, useRef, useState } from 'react';
import { Dialog, Heading, Modal, ModalOverlay } from 'react-aria-components';
import { Action } from '#shared/action-button.tsx';
import { answer, apiOf, type Session } from '#shared/api.ts';
import { copyField } from '#shared/clipboard.ts';
import { duration } from '#shared/duration.ts';
import { useNow } from '#shared/use-now.ts';
import { playwrightLine } from './playwright-snippet.ts';
import { ageSeconds, idleLeftSeconds, isOver, isReady, isWell, lifeLeftSeconds, startPage } from './selectors.ts';
import { Labels } from './sessions-table.tsx';
import { State } from './state-badge.tsx';

interface Props {
  readonly session: Session;
  /** Why nothing may be changed; null when it may. */
  readonly whyNot: string | null;
  /** Its live view, or what stands in its place. */
  readonly picture: ReactNode;
  /** What a call says of the session now. */
  readonly onNews: (session: Session) => void;
  readonly onClose: () => void;
}

export function SessionDetail({ session, whyNot, picture, onNews, onClose }: Props) {
  const { namespace, worker, id } = session;
  const api = apiOf(namespace);
  // The pool of a session that waits may still change.
  const params = { path: { worker: worker || '-', id } };
  const touch = useMutation({
    mutationFn: () => answer(api.POST('/sessions/{worker}/{id}/touch', { params })),
    onSuccess: onNews,
  });
  const end = useMutation({ mutationFn: () => answer(api.DELETE('/sessions/{worker}/{id}', { params })) });
  const connect = useMutation({
    mutationFn: () =>
      answer(
        api.POST('/sessions/{worker}/{id}/tokens', {
          params,
          body: { scope: 'connect', ttl_seconds: CONNECT_SECONDS },
        }),
      ),
  });
  const latest = [touch, end, connect].reduce((one, other) => (other.submittedAt > one.submittedAt ? other : one));
  const fault = latest.error;
  const whyNotUse = whyNot ?? (isReady(session) ? null : `It is ${session.state}, not Ready.`);

  return (
    <article className="detail" aria-label={`Session ${id}`}>
      <header>
        <h2 className="name" tabIndex={-1}>
          {id}
        </h2>
        <State state={session.state} />
        <Action onAct={onClose}>Close</Action>
      </header>
      {picture}
      <div className="actions">
        <Action onAct={() => connect.mutate()} whyNot={whyNotUse} primary>
          Playwright line
        </Action>
        <Action onAct={() => touch.mutate()} whyNot={whyNotUse}>
          Extend
        </Action>
        <End id={id} whyNot={whyNot ?? (isOver(session) ? 'It is over.' : null)} onEnd={() => end.mutate()} />
        {latest === touch && touch.isSuccess && (
          <span className="muted" role="status">
            Its idle time begins anew.
          </span>
        )}
      </div>
      {fault !== null && (
        <p role="alert" className="fault">
          {fault.message}
        </p>
      )}
      {connect.data !== undefined && isReady(session) && (
        <PlaywrightLine line={playwrightLine(endpoint(session), connect.data.token)} />
      )}
      <Facts session={session} />
    </article>
  );
}

const CONNECT_SECONDS = 3600;

/** By the address that this page came from, which is one that works from here. */
function endpoint({ namespace, id }: Session): string {
  return new URL(`/ws/${namespace}/${id}`, location.href).href.replace(/^http/, 'ws');
}

function PlaywrightLine({ line }: { readonly line: string }) {
  const field = useRef<HTMLTextAreaElement>(null);
  const [said, setSaid] = useState('');
  const copy = async () => {
    if (field.current === null) return;
    setSaid((await copyField(field.current)) ? 'Copied.' : 'Copy it with Ctrl+C: the browser does not let the page.');
  };
  return (
    <div className="line">
      <textarea
        ref={field}
        className="react-aria-TextArea"
        aria-label="Playwright line"
        readOnly
        rows={3}
        value={line}
      />
      <div className="actions">
        <Action onAct={copy}>Copy</Action>
        <span className="muted" role="status">
          {said || 'For JavaScript. Its token is for this session only, and good for an hour.'}
        </span>
      </div>
    </div>
  );
}

function End({
  id,
  whyNot,
  onEnd,
}: {
  readonly id: string;
  readonly whyNot: string | null;
  readonly onEnd: () => void;
}) {
  const [asks, setAsks] = useState(false);
  return (
    <>
      <Action onAct={() => setAsks(true)} whyNot={whyNot}>
        End…
      </Action>
      <ModalOverlay className="overlay" isOpen={asks} onOpenChange={setAsks} isDismissable>
        <Modal>
          <Dialog role="alertdialog">
            <Heading slot="title">End this session?</Heading>
            <p>
              <span className="name">{id}</span> loses its browser with all its pages. Clients and viewers are
              disconnected.
            </p>
            <div className="actions">
              <Action onAct={() => setAsks(false)}>Keep it</Action>
              <Action
                primary
                onAct={() => {
                  setAsks(false);
                  onEnd();
                }}
              >
                End it
              </Action>
            </div>
          </Dialog>
        </Modal>
      </ModalOverlay>
    </>
  );
}

/** Where it stands in the queue. It changes with what others do, of which no event tells, so it is asked for. */
function useQueuePosition({ state, worker, namespace, id }: Session): number | null | undefined {
  const params = { path: { worker: worker || '-', id } };
  const { data } = useQuery({
    queryKey: ['queue-position', namespace, id],
    queryFn: () => answer(apiOf(namespace).GET('/sessions/{worker}/{id}', { params })),
    enabled: state === 'Queued',
    refetchInterval: QUEUE_MS,
  });
  return state === 'Queued' ? data?.queue_position : null;
}

const QUEUE_MS = 2_000;

function Facts({ session }: { readonly session: Session }) {
  const now = useNow();
  const position = useQueuePosition(session);
  const idle = idleLeftSeconds(session, now);
  const life = lifeLeftSeconds(session, now);
  const page = startPage(session);
  const browser = [session.browser, session.browser_version].filter(Boolean).join(' ');
  const labels = Object.keys(session.labels).length === 0 ? null : <Labels labels={session.labels} />;
  const facts: readonly (readonly [string, ReactNode])[] = [
    ['Reason', isWell(session) ? null : session.reason],
    ['Message', isWell(session) ? null : session.message],
    ['Pool', session.worker],
    ['Served before it', position == null ? null : `${position} ${position === 1 ? 'session' : 'sessions'}`],
    ['Runner', session.runner],
    ['Browser', browser],
    ['Playwright', session.playwright_version],
    ['Clients', session.clients],
    ['Age', duration(ageSeconds(session, now))],
    ['Idle time left', idle === null ? null : duration(idle)],
    ['Ends at the latest in', life === null ? null : duration(life)],
    ['Start page', session.start_url == null ? null : `${session.start_url}${page === '' ? '' : ` (${page})`}`],
    ['Why it failed', session.start_page?.state === 'failed' ? session.start_page.message : null],
    ['Labels', labels],
  ];
  return (
    <dl className="facts">
      {facts.map(
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
