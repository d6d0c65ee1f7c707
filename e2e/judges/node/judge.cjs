// What all judges in Node share: the environment that `run` sets, the sample of their tests, and their results.
'use strict';

const fs = require('node:fs');

const { ENDPOINT: endpoint, TOKEN: token, SITE: site, RESULTS: results, SAMPLE = '1' } = process.env;

/** Headers of the connection to the Playwright server. */
const headers = token ? { Authorization: `Bearer ${token}` } : {};

/** Every N-th of the tests, where N is the environment variable SAMPLE. */
const sample = (tests) => tests.filter((_, index) => index % Number(SAMPLE) === 0);

/** Appends a test's result to the file of results. `outcome`: passed, failed or skipped. */
function report(judge, test, outcome, reason = '') {
  fs.appendFileSync(results, `${JSON.stringify({ judge, test, outcome, reason })}\n`);
}

/** Throw one to skip a test. */
class Skip extends Error {}

/** Runs `body` and reports its result. */
async function reportRun(judge, test, body) {
  try {
    await body();
    report(judge, test, 'passed');
  } catch (error) {
    if (error instanceof Skip) report(judge, test, 'skipped', error.message);
    else report(judge, test, 'failed', String(error.stack ?? error));
  }
}

module.exports = { endpoint, headers, site, sample, report, reportRun, Skip };
