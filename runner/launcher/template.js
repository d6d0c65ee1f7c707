#!/usr/bin/env node
// Creates the template of session profiles, once per image:
//   node template.js ENGINE EXECUTABLE DIR
// It launches the browser as for a session and copies the reusable files of its profile (see TEMPLATE).
'use strict';

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { Browser, TEMPLATE } = require('./browser');

async function main([engine, executable, template]) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'camofleet-'));
  try {
    const screen = { width: 1280, height: 720 };
    const browser = await Browser.launch({ engine, executable, dir, wsPath: '/', headless: true, screen });
    await browser.ping();
    await browser.quit();
    // Not every engine writes all of these files.
    for (const name of TEMPLATE.filter((name) => fs.existsSync(path.join(dir, 'profile', name)))) {
      fs.cpSync(path.join(dir, 'profile', name), path.join(template, name), { recursive: true, preserveTimestamps: true });
    }
    console.log(`created the profile template of ${engine} ${browser.version} in ${template}`);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exit(1);
  },
);
