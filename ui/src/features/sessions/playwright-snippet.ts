/**
 * JavaScript that connects Playwright to a session and its initial page, which the live view shows. `token`: a session
 * token, because `/ws` accepts no cookie.
 */
export function playwrightSnippet(wsUrl: string, token: string): string {
  return `const browser = await (await import('playwright-core')).firefox.connect(${quoted(`${wsUrl}?page=open`)}, { headers: { Authorization: ${quoted(`Bearer ${token}`)} } });`;
}

function quoted(text: string): string {
  return `'${text.replace(/[\\']/g, '\\$&')}'`;
}
