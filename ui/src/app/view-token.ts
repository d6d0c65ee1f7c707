import type { Session } from '#shared/api.ts';

/** The token that is good for looking at a session: in the fragment of its page's address. Null without one. Pure. */
export function viewToken({ vnc }: Session): string | null {
  const hash = vnc?.http.split('#')[1] ?? '';
  return new URLSearchParams(hash).get('token');
}
