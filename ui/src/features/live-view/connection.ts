/**
 * The state machine of a live view's connection. Pure.
 *
 *   connecting ──► connected ──► reconnecting ──► connected …
 *       │  ▲          │               │
 *       ▼  │          ▼               ▼
 *     starting      ended           failed        (both final)
 *
 * Each state names the one effect that its owner keeps running. The owner restarts an effect only if its object
 * identity changes.
 */

/** What the live view's client is permitted to do: view, or also type and click. */
export type Scope = 'view' | 'control';

export type Effect =
  /** Open a WebSocket and keep it open. */
  | { readonly type: 'connect' }
  /** Find out by plain HTTP why the WebSocket failed. */
  | { readonly type: 'probe' }
  | { readonly type: 'wait'; readonly ms: number };

export type Phase =
  | { readonly type: 'connecting' }
  /** The session is not ready yet. `detail` is the gateway's explanation, or empty. */
  | { readonly type: 'starting'; readonly detail: string }
  | { readonly type: 'connected'; readonly granted: Scope }
  /** `afterMs`: the pause before the next attempt, 0 for none. */
  | { readonly type: 'reconnecting'; readonly reason: string; readonly afterMs: number }
  | { readonly type: 'ended'; readonly reason: string }
  | { readonly type: 'failed'; readonly title: string; readonly text: string };

export interface ConnectionState {
  readonly phase: Phase;
  /** The widest scope to request, as far as the page knows before the gateway answers. */
  readonly permitted: Scope;
  readonly requested: Scope;
  /** Null in a final state. */
  readonly effect: Effect | null;
  /** Failed attempts since the last stable connection. */
  readonly failures: number;
}

export type ConnectionEvent =
  | { readonly type: 'connected'; readonly granted: Scope }
  /** The WebSocket is closed. `connectedMs`: how long the picture was there, 0 if never. */
  | { readonly type: 'closed'; readonly code: number; readonly reason: string; readonly connectedMs: number }
  /** The gateway answered the probe. */
  | {
      readonly type: 'probed';
      readonly status: number;
      readonly detail: string;
      readonly retryAfterSeconds: number | null;
    }
  /** The gateway did not answer the probe. */
  | { readonly type: 'unreachable' }
  /** Connecting or probing takes longer than it does for a session that is ready. */
  | { readonly type: 'slow' }
  | { readonly type: 'wait-elapsed' }
  /** The user pressed "Try now", or the network came back. */
  | { readonly type: 'retry-requested' }
  | { readonly type: 'scope-requested'; readonly scope: Scope }
  /** The page cannot connect because of a fault of its own. */
  | { readonly type: 'client-failed'; readonly title: string; readonly text: string };

/** A connection that lasted this long was stable: it resets the count of failures. */
const STABLE_MS = 5_000;
const MIN_BACKOFF_MS = 1_000;
const MAX_BACKOFF_MS = 30_000;

export function initialState(scope: Scope, permitted: Scope = 'control'): ConnectionState {
  const requested = permitted === 'view' ? 'view' : scope;
  return { phase: { type: 'connecting' }, permitted, requested, effect: { type: 'connect' }, failures: 0 };
}

export function reduce(state: ConnectionState, event: ConnectionEvent): ConnectionState {
  if (state.effect === null) return state;
  switch (event.type) {
    case 'connected':
      return { ...state, phase: { type: 'connected', granted: event.granted } };
    case 'closed': {
      const failures = event.connectedMs >= STABLE_MS ? 0 : state.failures;
      return closed({ ...state, failures }, event.code, event.reason);
    }
    case 'probed':
      return probed(state, event.status, event.detail, event.retryAfterSeconds);
    case 'unreachable':
      return reconnecting(state, 'The gateway cannot be reached.', backoff(state.failures));
    case 'slow':
      return state.phase.type === 'connecting' ? { ...state, phase: { type: 'starting', detail: '' } } : state;
    case 'wait-elapsed':
    case 'retry-requested':
      return state.effect.type === 'wait' ? { ...state, effect: { type: 'connect' } } : state;
    case 'scope-requested': {
      const next = initialState(event.scope, state.permitted);
      return next.requested === state.requested ? state : next;
    }
    case 'client-failed':
      return failed(state, event.title, event.text);
  }
}

/** Codes below 4000 are defined in RFC 6455, section 7.4.1; the others are the gateway's own. */
function closed(state: ConnectionState, code: number, reason: string): ConnectionState {
  switch (code) {
    case 4410:
      return ended(state, reason);
    case 4401:
      return tokenRejected(state, reason);
    case 1001:
      return reconnecting(state, 'The gateway is restarting.', backoffAfterFirst(state.failures));
    case 1011:
      return reconnecting(state, reason ? sentence(reason) : 'The runner was lost.', backoff(state.failures));
    case 1002:
    case 1003:
    case 1007:
    case 1008:
    case 1009:
      return failed(
        state,
        'Protocol error',
        `${reason || 'The gateway gave no reason'} (code ${code}). Reload the page: it may be older than the gateway.`,
      );
    default:
      return { ...state, phase: state.phase.type === 'connected' ? lost : state.phase, effect: { type: 'probe' } };
  }
}

const lost: Phase = { type: 'reconnecting', reason: 'The connection was lost.', afterMs: 0 };

function probed(
  state: ConnectionState,
  status: number,
  detail: string,
  retryAfterSeconds: number | null,
): ConnectionState {
  switch (status) {
    case 401:
      return tokenRejected(state, detail);
    case 403:
      return failed(state, 'Not allowed', detail || 'Your token does not permit viewing this session.');
    case 404:
      return failed(state, 'No such session', detail || 'It may have been deleted.');
    case 410:
      return ended(state, detail);
    case 503: {
      const ms = Math.min(Math.max(1000 * (retryAfterSeconds ?? 1), MIN_BACKOFF_MS), MAX_BACKOFF_MS);
      return state.phase.type === 'reconnecting'
        ? reconnecting(state, detail ? sentence(detail) : 'The session is not ready.', ms)
        : { ...state, phase: { type: 'starting', detail }, effect: { type: 'wait', ms } };
    }
    // Upgrade Required: the gateway would accept a WebSocket now.
    case 426:
      return reconnecting(state, 'The connection was lost.', backoffAfterFirst(state.failures));
    default:
      return reconnecting(state, `The gateway answered with status ${status}.`, backoff(state.failures));
  }
}

function reconnecting(state: ConnectionState, reason: string, afterMs: number): ConnectionState {
  return {
    ...state,
    phase: { type: 'reconnecting', reason, afterMs },
    effect: afterMs === 0 ? { type: 'connect' } : { type: 'wait', ms: afterMs },
    failures: state.failures + 1,
  };
}

function ended(state: ConnectionState, reason: string): ConnectionState {
  return { ...state, phase: { type: 'ended', reason }, effect: null };
}

function failed(state: ConnectionState, title: string, text: string): ConnectionState {
  return { ...state, phase: { type: 'failed', title, text }, effect: null };
}

function tokenRejected(state: ConnectionState, detail: string): ConnectionState {
  const advice = 'Ask for a new link: a link is valid for a limited time.';
  return failed(state, 'The token is not valid', detail === '' ? advice : `${sentence(detail)} ${advice}`);
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function backoff(failures: number): number {
  return Math.min(MIN_BACKOFF_MS * 2 ** failures, MAX_BACKOFF_MS);
}

/** Without a pause for the first failure, because a gateway that closes on purpose is soon replaced. */
function backoffAfterFirst(failures: number): number {
  return failures === 0 ? 0 : backoff(failures - 1);
}
