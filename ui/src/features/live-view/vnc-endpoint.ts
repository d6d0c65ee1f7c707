/** The gateway's door for a live view, `/vnc/{namespace}/{name}`, as the page sees it. */

import type { Happening, Role } from './connection.ts';

/** The subprotocols to offer. A browser cannot set headers on a WebSocket, so the token goes here. */
export function offers(wanted: Role, token: string | null): string[] {
  const roles = wanted === 'control' ? ['camofleet.control', 'camofleet.view'] : ['camofleet.view'];
  return token === null ? roles : [...roles, `camofleet.bearer.${token}`];
}

export function granted(protocol: string): Role {
  return protocol === 'camofleet.control' ? 'control' : 'view';
}

/**
 * Asks why there is no WebSocket: a browser tells a page neither status nor body of a refused one. Rejects only when
 * `signal` is aborted.
 */
export async function askWhy(url: URL, token: string | null, signal: AbortSignal): Promise<Happening> {
  try {
    const response = await fetch(url, {
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
      cache: 'no-store',
      signal,
    });
    return {
      what: 'answered',
      status: response.status,
      detail: await detailOf(response),
      retryAfterSeconds: secondsOf(response.headers.get('retry-after')),
    };
  } catch (error) {
    if (signal.aborted) throw error;
    return { what: 'unreachable' };
  }
}

/** The words of `{"detail": "…"}`; empty when a proxy before the gateway answered otherwise. */
async function detailOf(response: Response): Promise<string> {
  const body: unknown = await response.json().catch(() => null);
  const detail = body !== null && typeof body === 'object' && 'detail' in body ? body.detail : '';
  return typeof detail === 'string' ? detail : '';
}

/** Retry-After in seconds (RFC 9110, section 10.2.3); a date counts as not given. */
export function secondsOf(retryAfter: string | null): number | null {
  return retryAfter !== null && /^\d+$/.test(retryAfter) ? Number(retryAfter) : null;
}
