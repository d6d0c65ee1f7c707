// Configures Playwright Test as a judge.
'use strict';

const { defineConfig } = require('@playwright/test');
const { endpoint, headers, site } = require('./judge.cjs');

module.exports = defineConfig({
  testDir: __dirname,
  testMatch: 'playwright-test.cjs',
  outputDir: process.env.OUTPUT,
  globalSetup: require.resolve('./find-ffmpeg.cjs'),
  reporter: [[require.resolve('./reporter.cjs')]],
  workers: 2,
  fullyParallel: true,
  timeout: 60_000,
  use: {
    browserName: 'firefox',
    connectOptions: { wsEndpoint: endpoint, headers },
    baseURL: site,
    trace: 'on',
    screenshot: 'only-on-failure',
    // Set by find-ffmpeg.cjs, before the workers read this file.
    video: process.env.FFMPEG_FOUND ? 'retain-on-failure' : 'off',
  },
});
