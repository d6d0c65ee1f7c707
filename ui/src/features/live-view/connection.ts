/**
 * What a live view does when something happens to its connection: a state machine without IO.
 *
 *   connecting ──► connected ──► reconnecting ──► connected …
 *       │  ▲          │               │
 *       ▼  │          ▼               ▼
 *     starting      ended          refused        (the two that are final)
 *
 * A state also names the one task that is to be done in it. A task goes on for as long as it is the same object.
 */

/** What a viewer may do: look, or also type and click. */
export type Role = 'view' | 'control';

export type Task =
  /** Open a WebSocket, and hold it. */
  | { readonly do: 'dial' }
  /** Ask by plain HTTP why there is no WebSocket. */
  | { readonly do: 'ask' }
  | { readonly do: 'wait'; readonly ms: number };

export type Shown =
  | { readonly is: 'connecting' }
  /** The session is not ready yet. `detail` is the gateway's word on it, or empty. */
  | { readonly is: 'starting'; readonly detail: string }
  | { readonly is: 'connected'; readonly granted: Role }
  | { readonly is: 'reconnecting'; readonly why: string; readonly afterMs: number }
  | { readonly is: 'ended'; readonly reason: string }
  | { readonly is: 'refused'; readonly title: string; readonly words: string };

export interface State {
  readonly shown: Shown;
  readonly wanted: Role;
  /** Null in a final state. */
  readonly task: Task | null;
  /** Attempts in a row that did not come to a connection that lasted. */
  readonly failures: number;
}

export type Happening =
  | { readonly what: 'connected'; readonly granted: Role }
  /** The WebSocket is closed. `heldMs`: how long the picture was there, 0 if never. */
  | { readonly what: 'closed'; readonly code: number; readonly reason: string; readonly heldMs: number }
  /** The answer to `ask`. */
  | {
      readonly what: 'answered';
      readonly status: number;
      readonly detail: string;
      readonly retryAfterSeconds: number | null;
    }
  | { readonly what: 'unreachable' }
  /** Dialling or asking takes longer than it does with a session that is ready. */
  | { readonly what: 'slow' }
  | { readonly what: 'waited' }
  /** The person, or the network that is back, does not want to wait. */
  | { readonly what: 'hurried' }
  | { readonly what: 'asked'; readonly role: Role }
  /** The page itself cannot go on. */
  | { readonly what: 'broke'; readonly title: string; readonly words: string };

/** A connection that held this long was a good one: the next failure is the first again. */
const GOOD_MS = 5_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;

export function begin(wanted: Role): State {
  return { shown: { is: 'connecting' }, wanted, task: { do: 'dial' }, failures: 0 };
}

export function step(state: State, happening: Happening): State {
  if (state.task === null) return state;
  switch (happening.what) {
    case 'connected':
      return { ...state, shown: { is: 'connected', granted: happening.granted } };
    case 'closed': {
      const failures = happening.heldMs >= GOOD_MS ? 0 : state.failures;
      return closed({ ...state, failures }, happening.code, happening.reason);
    }
    case 'answered':
      return answered(state, happening.status, happening.detail, happening.retryAfterSeconds);
    case 'unreachable':
      return reconnecting(state, 'The gateway cannot be reached.', backOff(state.failures));
    case 'slow':
      return state.shown.is === 'connecting' ? { ...state, shown: { is: 'starting', detail: '' } } : state;
    case 'waited':
    case 'hurried':
      return state.task.do === 'wait' ? { ...state, task: { do: 'dial' } } : state;
    case 'asked':
      if (happening.role === state.wanted) return state;
      return { shown: { is: 'connecting' }, wanted: happening.role, task: { do: 'dial' }, failures: 0 };
    case 'broke':
      return refused(state, happening.title, happening.words);
  }
}

/** Codes below 4000 are of RFC 6455, section 7.4.1; the others are the gateway's own. */
function closed(state: State, code: number, reason: string): State {
  switch (code) {
    case 4410:
      return ended(state, reason);
    case 4401:
      return tokenRefused(state, reason);
    case 1001:
      return reconnecting(state, 'The gateway is restarting.', firstAtOnce(state.failures));
    case 1011:
      return reconnecting(state, reason ? sentence(reason) : 'The runner was lost.', backOff(state.failures));
    case 1002:
    case 1003:
    case 1007:
    case 1008:
    case 1009:
      return refused(
        state,
        'Gateway and page do not understand each other',
        `${reason || 'Protocol error'} (code ${code}). Reload the page: it may be older than the gateway.`,
      );
    default:
      return { ...state, shown: state.shown.is === 'connected' ? lost : state.shown, task: { do: 'ask' } };
  }
}

const lost: Shown = { is: 'reconnecting', why: 'The connection was lost.', afterMs: 0 };

function answered(state: State, status: number, detail: string, retryAfterSeconds: number | null): State {
  switch (status) {
    case 401:
      return tokenRefused(state, detail);
    case 403:
      return refused(state, 'Not allowed', detail || 'Your token does not allow to see this session.');
    case 404:
      return refused(state, 'No such session', detail || 'It may have been deleted.');
    case 410:
      return ended(state, detail);
    case 503: {
      const ms = Math.min(Math.max(1000 * (retryAfterSeconds ?? 1), FIRST_PAUSE_MS), LONGEST_PAUSE_MS);
      return state.shown.is === 'reconnecting'
        ? reconnecting(state, detail ? sentence(detail) : 'The session is not ready.', ms)
        : { ...state, shown: { is: 'starting', detail }, task: { do: 'wait', ms } };
    }
    // "Upgrade Required": a WebSocket would be accepted now.
    case 426:
      return reconnecting(state, 'The connection was lost.', firstAtOnce(state.failures));
    default:
      return reconnecting(state, `The gateway answered with status ${status}.`, backOff(state.failures));
  }
}

function reconnecting(state: State, why: string, afterMs: number): State {
  return {
    ...state,
    shown: { is: 'reconnecting', why, afterMs },
    task: afterMs === 0 ? { do: 'dial' } : { do: 'wait', ms: afterMs },
    failures: state.failures + 1,
  };
}

function ended(state: State, reason: string): State {
  return { ...state, shown: { is: 'ended', reason }, task: null };
}

function refused(state: State, title: string, words: string): State {
  return { ...state, shown: { is: 'refused', title, words }, task: null };
}

function tokenRefused(state: State, detail: string): State {
  const advice = 'Ask for a new link to this view; a link is valid for a limited time.';
  return refused(state, 'The token is not valid', detail === '' ? advice : `${sentence(detail)} ${advice}`);
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function backOff(failures: number): number {
  return Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS);
}

/** What went away on purpose is soon back; only when it is not, wait. */
function firstAtOnce(failures: number): number {
  return failures === 0 ? 0 : backOff(failures - 1);
}
