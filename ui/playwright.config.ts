import { defineConfig } from '@playwright/test';

// Debian's browsers. Its Firefox lacks Juggler, Playwright's own protocol, so this channel selects WebDriver BiDi.
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
  // Tests with the tag @once do not depend on the browser. Among them are those with axe, which takes twice as long
  // in Firefox.
  projects: [chromium, { ...firefox, grepInvert: /@once/ }],
});
