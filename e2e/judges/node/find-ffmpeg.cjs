// Before the tests: sets FFMPEG_FOUND if the server can record videos, for which it needs ffmpeg.
'use strict';

const os = require('node:os');
const { firefox } = require('@playwright/test');
const { endpoint, headers } = require('./judge.cjs');

module.exports = async () => {
  const browser = await firefox.connect(endpoint, { headers });
  try {
    const context = await browser.newContext({ recordVideo: { dir: os.tmpdir() } });
    await context.newPage();
    process.env.FFMPEG_FOUND = 'yes';
  } catch (error) {
    if (!/ffmpeg/i.test(error)) throw error;
  } finally {
    await browser.close();
  }
};
