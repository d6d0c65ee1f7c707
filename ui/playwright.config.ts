import { defineConfig } from '@playwright/test';

// Debian's browsers. Its Firefox has no Juggler, so Playwright speaks WebDriver BiDi with it: the channel says so.
export default defineConfig({
  testDir: 'tests',
  testMatch: '*.spec.ts',
  outputDir: 'test-results',
  forbidOnly: true,
  workers: 2,
  reporter: 'list',
  use: { viewport: { width: 1000, height: 700 } },
  projects: [
    { name: 'chromium', use: { browserName: 'chromium', launchOptions: { executablePath: '/usr/bin/chromium' } } },
    {
      name: 'firefox',
      // axe judges the page and not the browser: one is enough, and this one takes twice as long.
      grepInvert: /accessible in the/,
      use: {
        browserName: 'firefox',
        channel: 'moz-firefox',
        launchOptions: { executablePath: '/usr/bin/firefox-esr' },
      },
    },
  ],
});
