/**
 * The client's side of the gateway's endpoint `/vnc/{namespace}/{name}`: subprotocols, and the probe over plain HTTP.
 */

import type { ConnectionEvent, Scope } from './connection.ts';

/** The subprotocols to offer. The token is one of them because a browser cannot set headers on a WebSocket. */
export function offeredSubprotocols(scope: Scope, token: string | null): string[] {
  const scopes = scope === 'control' ? ['camofleet.control', 'camofleet.view'] : ['camofleet.view'];
  return token === null ? scopes : [...scopes, `camofleet.bearer.${token}`];
}

export function grantedScope(subprotocol: string): Scope {
  return subprotocol === 'camofleet.control' ? 'control' : 'view';
}

/**
 * Finds out why the WebSocket failed, because a browser shows a page neither the status nor the body of a failed
 * handshake. Rejects only when `signal` is aborted.
 */
export async function probe(url: URL, token: string | null, signal: AbortSignal): Promise<ConnectionEvent> {
  try {
    const response = await fetch(url, {
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
      cache: 'no-store',
      signal,
    });
    return {
      type: 'probed',
      status: response.status,
      detail: await readDetail(response),
      retryAfterSeconds: parseRetryAfter(response.headers.get('retry-after')),
    };
  } catch (error) {
    if (signal.aborted) throw error;
    return { type: 'unreachable' };
  }
}

/** The text of `{"detail": "…"}`; empty when a proxy before the gateway answered otherwise. */
async function readDetail(response: Response): Promise<string> {
  const body: unknown = await response.json().catch(() => null);
  const detail = body !== null && typeof body === 'object' && 'detail' in body ? body.detail : '';
  return typeof detail === 'string' ? detail : '';
}

/** Retry-After in seconds (RFC 9110, section 10.2.3). A date is ignored. */
export function parseRetryAfter(header: string | null): number | null {
  return header !== null && /^\d+$/.test(header) ? Number(header) : null;
}
