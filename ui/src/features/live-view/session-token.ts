/** Reads the scope of a session token. Pure. */

import type { Scope } from './connection.ts';

/**
 * The widest scope that a live view can request with this token. Only a session token, a JWT with the claim `role`,
 * contains it. For any other credential the result is `control`, and the gateway decides. The token is not verified here.
 */
export function permittedScope(token: string | null): Scope {
  return claimsOf(token ?? '')?.role === 'view' ? 'view' : 'control';
}

/** The claims of a JWT (RFC 7519), not verified; null for another string. */
function claimsOf(token: string): { readonly role?: unknown } | null {
  const [, payload = ''] = token.split('.');
  try {
    return JSON.parse(atob(payload.replaceAll('-', '+').replaceAll('_', '/')));
  } catch {
    return null;
  }
}
