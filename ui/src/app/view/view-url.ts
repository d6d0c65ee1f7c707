/** What the address of a live view says. Pure. */

import type { Role } from '#features/live-view/connection.ts';

export interface Address {
  readonly namespace: string;
  readonly name: string;
  readonly token: string | null;
  readonly wanted: Role;
  /** Only the picture, in another page. */
  readonly embedded: boolean;
}

/** Parses `/view/{namespace}/{name}?embed=1&control=1#token=…`. Segments stay percent-encoded. */
export function parseAddress(url: URL): Address {
  const [, , namespace = '', name = ''] = url.pathname.split('/');
  return {
    namespace,
    name,
    // In the fragment, which browsers send to no server and in no Referer.
    token: new URLSearchParams(url.hash.slice(1)).get('token') || null,
    wanted: url.searchParams.get('control') === '1' ? 'control' : 'view',
    embedded: url.searchParams.get('embed') === '1',
  };
}
