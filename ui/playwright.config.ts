import { defineConfig } from '@playwright/test';

// Debian's browsers. Its Firefox has no Juggler, so Playwright speaks WebDriver BiDi with it: the channel says so.
const chromium = {
  name: 'chromium',
  use: { browserName: 'chromium' as const, launchOptions: { executablePath: '/usr/bin/chromium' } },
};
const firefox = {
  name: 'firefox',
  use: {
    browserName: 'firefox' as const,
    channel: 'moz-firefox',
    launchOptions: { executablePath: '/usr/bin/firefox-esr' },
  },
};

export const browsers = [chromium, firefox];

export default defineConfig({
  testDir: 'tests',
  testMatch: '*.spec.ts',
  outputDir: 'test-results',
  forbidOnly: true,
  workers: 2,
  reporter: 'list',
  use: { viewport: { width: 1000, height: 700 } },
  // What is tagged @once hangs on what the page is told and not on the browser; and axe, of which Firefox takes twice as long,
  // judges the page.
  projects: [chromium, { ...firefox, grepInvert: /@once/ }],
});
