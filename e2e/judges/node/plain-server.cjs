// Starts a Playwright server with the Firefox of this machine, and prints its endpoint. Ends when stdin is closed.
//   node plain-server.cjs <path of Firefox>
'use strict';

const { firefox } = require('@playwright/test');

async function main() {
  // The channel makes Playwright use WebDriver BiDi, the protocol of stock Firefox.
  const server = await firefox.launchServer({ channel: 'moz-firefox', executablePath: process.argv[2], headless: true });
  console.log(server.wsEndpoint());
  server.on('close', () => process.exit(1));
  process.stdin.resume().on('end', async () => {
    await server.close();
    process.exit(0);
  });
}

main();
