/** Parses the URL of a live view's page. Pure. */

import type { Scope } from '#features/live-view/connection.ts';

export interface ViewUrl {
  readonly namespace: string;
  readonly name: string;
  readonly token: string | null;
  /** The scope to request. */
  readonly scope: Scope;
  /** Whether another page embeds this one: the toolbar is hidden. */
  readonly embedded: boolean;
}

/** Reads `/view/{namespace}/{name}?embed=1&control=1#token=…`. Segments stay percent-encoded. */
export function parseViewUrl(url: URL): ViewUrl {
  const [, , namespace = '', name = ''] = url.pathname.split('/');
  return {
    namespace,
    name,
    // In the fragment, because browsers send that neither to servers nor as Referer.
    token: new URLSearchParams(url.hash.slice(1)).get('token') || null,
    scope: url.searchParams.get('control') === '1' ? 'control' : 'view',
    embedded: url.searchParams.get('embed') === '1',
  };
}
