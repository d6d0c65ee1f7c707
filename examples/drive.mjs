// Drives a session with Playwright and saves a picture of its page.
//   npm ci && node drive.mjs <wsEndpoint> <token> [picture.png]
// or with CAMOFLEET_WS_ENDPOINT and CAMOFLEET_TOKEN in the environment.
import { firefox } from 'playwright-core';

const [wsEndpoint = process.env.CAMOFLEET_WS_ENDPOINT, token = process.env.CAMOFLEET_TOKEN, picture = 'page.png'] =
  process.argv.slice(2);
if (!wsEndpoint || !token) {
  console.error('usage: node drive.mjs <wsEndpoint> <token> [picture.png]');
  process.exit(2);
}

const browser = await firefox.connect(wsEndpoint, { headers: { Authorization: `Bearer ${token}` } });
try {
  // The session's own page, which a viewer sees too. A page of a new context would take longer to open.
  const page = browser.contexts()[0].pages()[0];
  console.log(`Firefox ${browser.version()} shows: ${await page.title()} (${page.url().slice(0, 60)})`);
  await page.screenshot({ path: picture });
  console.log(`saved ${picture}`);
} finally {
  await browser.close();
}
