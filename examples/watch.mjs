// Saves a screenshot of a session's live view. Creates a second session through the REST API, whose browser opens the
// view.
//   npm ci && node watch.mjs <gateway URL> <token> <session> [screenshot.png]
import { firefox } from 'playwright-core';

const [gateway, token, name, screenshot = 'live-view.png'] = process.argv.slice(2);
if (!gateway || !token || !name) {
  console.error('usage: node watch.mjs <gateway URL> <token> <session> [screenshot.png]');
  process.exit(2);
}
const headers = { Authorization: `Bearer ${token}` };

async function call(method, path, body) {
  const response = await fetch(`${gateway}/api${path}`, {
    method,
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const document = await response.json();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(document.detail)}`);
  return document;
}

// `-` stands for any pool.
const watched = await call('GET', `/sessions/-/${name}`);
if (!watched.vnc) {
  throw new Error(`session ${name} has no live view: state ${watched.state}, display LiveView: ${watched.vnc_enabled}`);
}
const viewer = await call('POST', '/sessions', { headless: true, idle_ttl_seconds: 60, labels: { purpose: `watches ${name}` } });
try {
  const browser = await firefox.connect(`${gateway.replace(/^http/, 'ws')}${viewer.ws_endpoint}?page=open`, { headers });
  const page = browser.contexts()[0].pages()[0];
  // The URL contains a view token in its fragment.
  await page.goto(watched.vnc.http);
  await page.waitForFunction(() => {
    const screen = document.querySelector('canvas');
    if (!screen?.width || !screen.height) return false;
    const pixels = screen.getContext('2d').getImageData(0, 0, screen.width, screen.height).data;
    return pixels.some((value, at) => at % 4 < 3 && value > 0);
  });
  await page.screenshot({ path: screenshot });
  console.log(`saved ${screenshot}: ${await page.title()}`);
  await browser.close();
} finally {
  await call('DELETE', `/sessions/${viewer.worker}/${viewer.id}`);
}
