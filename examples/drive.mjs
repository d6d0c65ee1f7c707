// Drives a session with Playwright and saves a screenshot of its page.
//   npm ci && node drive.mjs <wsEndpoint> <token> [screenshot.png]
// or with CAMOFLEET_WS_ENDPOINT and CAMOFLEET_TOKEN in the environment.
import { firefox } from 'playwright-core';

const [wsEndpoint = process.env.CAMOFLEET_WS_ENDPOINT, token = process.env.CAMOFLEET_TOKEN, screenshot = 'page.png'] =
  process.argv.slice(2);
if (!wsEndpoint || !token) {
  console.error('usage: node drive.mjs <wsEndpoint> <token> [screenshot.png]');
  process.exit(2);
}

const browser = await firefox.connect(`${wsEndpoint}?page=open`, { headers: { Authorization: `Bearer ${token}` } });
try {
  // The session's initial page (`page=open`), which the live view shows. Opening a page in a new context takes longer.
  const page = browser.contexts()[0].pages()[0];
  console.log(`Firefox ${browser.version()} shows: ${await page.title()} (${page.url().slice(0, 60)})`);
  await page.screenshot({ path: screenshot });
  console.log(`saved ${screenshot}`);
} finally {
  await browser.close();
}
