import { defineConfig } from '@playwright/test';
import { browsers } from './playwright.config.ts';

// The dashboard as the gateway of a running fleet serves it. CAMOFLEET_URL: the gateway's; CAMOFLEET_TOKEN: an admin's.
export default defineConfig({
  testDir: 'fleet',
  outputDir: 'test-results/fleet',
  forbidOnly: true,
  // Each test has a browser of the fleet besides its own.
  workers: 1,
  timeout: 120_000,
  expect: { timeout: 60_000 },
  reporter: 'list',
  use: { viewport: { width: 1360, height: 800 }, baseURL: process.env.CAMOFLEET_URL },
  projects: browsers,
});
