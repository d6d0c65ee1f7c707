import { defineConfig, type Project } from '@playwright/test';

// Debian's browsers. Its Firefox has no Juggler, so Playwright speaks WebDriver BiDi with it: the channel says so.
const chromium = {
  name: 'chromium',
  use: { browserName: 'chromium', launchOptions: { executablePath: '/usr/bin/chromium' } },
} satisfies Project;
const firefox = {
  name: 'firefox',
  use: {
    browserName: 'firefox',
    channel: 'moz-firefox',
    launchOptions: { executablePath: '/usr/bin/firefox-esr' },
  },
} satisfies Project;

export const browsers: Project[] = [chromium, firefox];

export default defineConfig({
  testDir: 'tests',
  testMatch: '*.spec.ts',
  outputDir: 'test-results',
  forbidOnly: true,
  workers: 2,
  reporter: 'list',
  use: { viewport: { width: 1000, height: 700 } },
  // axe judges the page and not the browser: one is enough, and Firefox takes twice as long for it.
  projects: [chromium, { ...firefox, grepInvert: /accessible in the/ }],
});
