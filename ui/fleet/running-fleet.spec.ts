/** The dashboard at a fleet that runs, with pools `headless` and `live` and a session `demo` that can be watched. */

import type { Browser } from 'playwright-core';
import { typeInto } from '../tests/dashboard-helpers.ts';
import { expect, pixel, screenshot, test } from '../tests/fixtures.ts';

const token = process.env.CAMOFLEET_TOKEN ?? '';
const green = [10, 123, 83];
/** One field over the whole page, so that wherever somebody clicks, it is typed into. */
const startPage =
  "data:text/html,<title>Field</title><input style='position:fixed;inset:0;border:0;width:100%;height:100%;background:rgb(10,123,83)'>";

test('a session from its start to its end', async ({ page, browserName }) => {
  const button = (name: string) => page.getByRole('button', { name, exact: true });
  await page.goto('/');
  await typeInto(page.getByLabel('Token'), token);
  await button('Log in').click();
  await expect(page.getByRole('grid', { name: 'Sessions' }).getByRole('row', { name: /demo/ })).toContainText('Ready');

  await button('Start session').click();
  await typeInto(page.getByLabel('Start page', { exact: true }), startPage);
  await typeInto(page.getByLabel('Labels'), `browser=${browserName}`);
  await button('Start').click();
  const picture = page.getByLabel(/^Screen of session/);
  await expect.poll(() => pixel(picture, 640, 500)).toEqual(green);
  await expect(page).toHaveURL(/session=/);

  await button('Take control').click();
  await expect(picture).toBeFocused();
  await picture.click();
  await page.keyboard.type('typed');
  await button('Playwright line').click();
  const remote = await connect(await page.getByRole('textbox', { name: 'Playwright line' }).inputValue());
  const field = remote.contexts()[0]?.pages()[0]?.locator('input');
  await expect.poll(() => field?.inputValue()).toBe('typed');
  if (browserName === 'chromium') await screenshot(page, 'fleet');
  await remote.close();

  await button('Extend').click();
  await button('End…').click();
  await button('End it').click();
  await expect(page.getByText(/^There is no session/)).toBeVisible();
  await expect(page.getByRole('alert')).toHaveCount(0);
});

test('the wall and the pools', async ({ page }) => {
  await page.goto('/?tab=wall');
  await typeInto(page.getByLabel('Token'), token);
  await page.getByRole('button', { name: 'Log in' }).click();
  await expect(page.getByLabel(/^Screen of session demo/)).toBeVisible();
  await page.getByRole('tab', { name: 'Pools' }).click();
  for (const pool of ['headless', 'live']) {
    await expect(page.getByRole('article', { name: pool })).toContainText('Serves sessions');
  }
  await page.getByRole('button', { name: 'Log out' }).click();
  await expect(page.getByLabel('Token')).toBeVisible();
});

/** Runs the line as whoever pastes it. */
async function connect(line: string): Promise<Browser> {
  const AsyncFunction = (async () => {}).constructor as new (code: string) => () => Promise<Browser>;
  return new AsyncFunction(`${line} return browser;`)();
}
