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

/**
 * Makes a method of all objects of the class of `object` try again while another window of the browser opens. Firefox 153
 * rejects browsingContext.create in this state, because the other window has no tabs yet.
 */
function retry(object, name) {
  const prototype = Object.getPrototypeOf(object);
  const method = prototype[name];
  if (method.retried) return;
  prototype[name] = async function (...options) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await method.apply(this, options);
      } catch (error) {
        if (attempt === 50 || !/getTabBrowser\(\.\.\.\) is undefined/.test(error)) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  };
  prototype[name].retried = true;
}

/** Retries the methods that open a window: `newPage`, and `newContext` if it has a storage state. */
function retryWindows(browser, context) {
  retry(browser, 'newContext');
  retry(context, 'newPage');
}

module.exports = { endpoint, headers, site, sample, report, reportRun, retryWindows, Skip };
