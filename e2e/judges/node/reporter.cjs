// Writes the results of Playwright Test in the judges' format.
'use strict';

const { report } = require('./judge.cjs');

const OUTCOMES = { passed: 'passed', skipped: 'skipped' };

module.exports = class {
  onTestEnd(test, result) {
    const skipped = test.annotations.concat(result.annotations ?? []).find(({ type }) => type === 'skip');
    const reason = result.errors.map(({ stack, message }) => stack ?? message).join('\n') || skipped?.description;
    report('playwright-test', test.title, OUTCOMES[result.status] ?? 'failed', reason);
  }

  onError(error) {
    console.error(error.stack ?? error.message);
  }
};
