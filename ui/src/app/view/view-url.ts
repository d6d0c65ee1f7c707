/** The address of a live view's page. Pure. */

import type { Scope } from '#features/live-view/connection.ts';

export interface ViewUrl {
  readonly namespace: string;
  readonly name: string;
  readonly token: string | null;
  /** The scope to request. */
  readonly scope: Scope;
  /** Show only the picture, because another page embeds this one. */
  readonly embedded: boolean;
}

/** Parses `/view/{namespace}/{name}?embed=1&control=1#token=…`. Segments stay percent-encoded. */
export function parseViewUrl(url: URL): ViewUrl {
  const [, , namespace = '', name = ''] = url.pathname.split('/');
  return {
    namespace,
    name,
    // In the fragment, which browsers send to no server and in no Referer.
    token: new URLSearchParams(url.hash.slice(1)).get('token') || null,
    scope: url.searchParams.get('control') === '1' ? 'control' : 'view',
    embedded: url.searchParams.get('embed') === '1',
  };
}
