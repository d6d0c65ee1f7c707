/**
 * Tests of the dashboard of a running fleet, with pools `headless` and `live` and a session `demo` with a live view.
 */

import type { Browser } from 'playwright-core';
import { typeInto } from '../tests/dashboard-helpers.ts';
import { expect, pixel, screenshot, test } from '../tests/fixtures.ts';

const token = process.env.CAMOFLEET_TOKEN ?? '';
const green = [10, 123, 83];
/** One input over the whole page, so that a click anywhere focuses it. */
const startPage =
  "data:text/html,<title>Field</title><input style='position:fixed;inset:0;border:0;width:100%;height:100%;background:rgb(10,123,83)'>";

test('starts, controls, extends and ends a session', async ({ page, browserName }) => {
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
  await button('Playwright snippet').click();
  const remote = await connect(await page.getByRole('textbox', { name: 'Playwright snippet' }).inputValue());
  const field = remote.contexts()[0]?.pages()[0]?.locator('input');
  await expect.poll(() => field?.inputValue()).toBe('typed');
  if (browserName === 'chromium') await screenshot(page, 'fleet');
  await remote.close();

  await button('Reset idle time').click();
  await button('End…').click();
  await button('End session').click();
  await expect(page.getByText(/^There is no session/)).toBeVisible();
  await expect(page.getByRole('alert')).toHaveCount(0);
});

test('shows the wall and the pools', async ({ page }) => {
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

/** Runs the snippet as a user who pastes it. */
async function connect(snippet: string): Promise<Browser> {
  const AsyncFunction = (async () => {}).constructor as new (code: string) => () => Promise<Browser>;
  return new AsyncFunction(`${snippet} return browser;`)();
}
