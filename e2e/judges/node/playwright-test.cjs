// The judge Playwright Test: the shared tests, and tests of its fixtures.
'use strict';

const fs = require('node:fs');
const { test, expect } = require('@playwright/test');
const { retryWindows, sample, Skip } = require('./judge.cjs');
const shared = require('./tests.cjs');

const own = [
  ['page fixture: starts empty in a context of its own', async ({ page, context }) => {
    expect(page.url()).toBe('about:blank');
    expect(context.pages()).toHaveLength(1);
    expect(await context.cookies()).toEqual([]);
  }],
  ['steps: soft assertions and polling', async ({ page }) => {
    await page.goto('/slow');
    await test.step('load', () => page.getByRole('button').click());
    await expect.poll(() => page.locator('output').textContent()).toContain('After 400 ms');
    expect.soft(await page.title()).toBe('Slow');
    expect(test.info().errors).toHaveLength(0);
  }],
  ['request fixture: calls the site without a page', async ({ request }) => {
    const response = await request.post('/echo', { data: { from: 'request' }, headers: { 'X-Judge': 'request' } });
    await expect(response).toBeOK();
    const { method, headers, body } = await response.json();
    expect([method, headers['x-judge'], body]).toEqual(['POST', 'request', '{"from":"request"}']);
  }],
  ['aria snapshot: matches the list of a page', async ({ page }) => {
    await page.goto('/list/1');
    await expect(page.locator('ul')).toMatchAriaSnapshot(`
      - list:
        - listitem:
          - link "1"
        - listitem:
          - link "2"
        - listitem:
          - link "3"
        - listitem:
          - link "4"`);
  }],
  ['attachments: a screenshot of the whole page', async ({ page }, info) => {
    await page.goto('/list/2');
    const path = info.outputPath('page.png');
    await page.screenshot({ path, fullPage: true });
    await info.attach('page', { path, contentType: 'image/png' });
    expect(fs.readFileSync(path).subarray(1, 4).toString()).toBe('PNG');
    expect(info.attachments.map(({ name }) => name)).toContain('page');
  }],
  ['locator handler: closes an overlay', async ({ page }) => {
    await page.goto('/shadow');
    await page.evaluate(() => {
      const overlay = document.createElement('div');
      overlay.id = 'overlay';
      overlay.style = 'position: fixed; inset: 0; background: white';
      overlay.textContent = 'overlay';
      document.body.append(overlay);
    });
    await page.addLocatorHandler(page.locator('#overlay'), (overlay) => overlay.evaluate((element) => element.remove()));
    await page.locator('x-counter').first().getByRole('button').click();
    await expect(page.locator('x-counter output').first()).toHaveText('1');
  }],
];

const tests = [
  ...shared.tests.map(({ name, path, run }) => [
    name,
    async ({ page, browser }) => {
      await page.goto(path);
      await run({ page, browser, expect });
    },
  ]),
  ...own,
];

test.beforeEach(({ browser, context }) => retryWindows(browser, context));

for (const [name, body] of sample(tests)) {
  test(name, async ({ page, context, browser, request }, info) => {
    try {
      await body({ page, context, browser, request }, info);
    } catch (error) {
      if (!(error instanceof Skip)) throw error;
      test.skip(true, error.message);
    }
  });
}
