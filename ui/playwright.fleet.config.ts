import { defineConfig } from '@playwright/test';
import { browsers } from './playwright.config.ts';

// Tests of the dashboard of a running fleet. CAMOFLEET_URL: URL of its gateway; CAMOFLEET_TOKEN: an admin token.
export default defineConfig({
  testDir: 'fleet',
  outputDir: 'test-results/fleet',
  forbidOnly: true,
  // One at a time, because each test also runs a browser in the fleet.
  workers: 1,
  timeout: 120_000,
  expect: { timeout: 60_000 },
  reporter: 'list',
  use: { viewport: { width: 1360, height: 800 }, baseURL: process.env.CAMOFLEET_URL },
  projects: browsers,
});
