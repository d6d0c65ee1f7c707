// Takes a picture of a session's live view, as a person would see it: a browser of the fleet, asked for by REST, opens the page.
//   npm ci && node watch.mjs <gateway URL> <token> <name of the session> [picture.png]
import { firefox } from 'playwright-core';

const [gateway, token, name, picture = 'live-view.png'] = process.argv.slice(2);
if (!gateway || !token || !name) {
  console.error('usage: node watch.mjs <gateway URL> <token> <name of the session> [picture.png]');
  process.exit(2);
}
const headers = { Authorization: `Bearer ${token}` };

async function call(method, path, body) {
  const answer = await fetch(`${gateway}/api${path}`, {
    method,
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const document = await answer.json();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(document.detail)}`);
  return document;
}

// `-`: in whichever pool it is.
const watched = await call('GET', `/sessions/-/${name}`);
if (!watched.vnc) throw new Error(`session ${name} has no live view now: it is ${watched.state}, display LiveView: ${watched.vnc_enabled}`);
const viewer = await call('POST', '/sessions', { headless: true, idle_ttl_seconds: 60, labels: { purpose: `watches ${name}` } });
try {
  const browser = await firefox.connect(`${gateway.replace(/^http/, 'ws')}${viewer.ws_endpoint}`, { headers });
  const page = browser.contexts()[0].pages()[0];
  // The URL has a token for looking in its fragment.
  await page.goto(watched.vnc.http);
  await page.waitForFunction(() => {
    const screen = document.querySelector('canvas');
    if (!screen?.width || !screen.height) return false;
    const pixels = screen.getContext('2d').getImageData(0, 0, screen.width, screen.height).data;
    return pixels.some((value, at) => at % 4 < 3 && value > 0);
  });
  await page.screenshot({ path: picture });
  console.log(`saved ${picture}: ${await page.title()}`);
  await browser.close();
} finally {
  await call('DELETE', `/sessions/${viewer.worker}/${viewer.id}`);
}
