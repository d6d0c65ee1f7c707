import type { Page } from '@playwright/test';
import { testSession } from '../src/shared/test-data.ts';
import { openDashboard } from './dashboard-helpers.ts';
import { stripe } from './display.ts';
import type { FakeGateway } from './fake-gateway.ts';
import { accessibilityViolations, expect, pixel, test } from './fixtures.ts';

const pictures = (page: Page) => page.getByRole('img', { name: /^Screen of session/ });
const picture = (page: Page, id: string) => page.getByLabel(`Screen of session ${id} in team-a`);

/** Seeds `count` sessions with a live view, w0 the oldest, and one without. */
function seed({ api }: FakeGateway, count: number): void {
  const watchable = Array.from({ length: count }, (_, n) =>
    api.watchable(`w${n}`, { created_at: new Date(Date.now() - 60_000 * (60 - n)).toISOString() }),
  );
  api.emit({ type: 'reset', pools: [], sessions: [testSession('headless'), ...watchable] });
}

test('shows 1, 4 or 9 live views per page, each with a link to its session', async ({ page, gateway }) => {
  seed(gateway, 6);
  await openDashboard(page, gateway, '?tab=wall');
  await expect(pictures(page)).toHaveCount(4);
  await expect.poll(() => pixel(picture(page, 'w0'), 300, 10)).toEqual(stripe);
  await expect(page.getByRole('button', { name: 'Previous' })).toHaveAccessibleDescription('This is the first page.');
  await page.getByRole('button', { name: 'Next' }).click();
  await expect(page.getByText('Page 2 of 2')).toBeVisible();
  await expect(pictures(page)).toHaveCount(2);
  await expect(page).toHaveURL(/page=2/);
  expect(
    gateway.connections.every(({ offeredSubprotocols }) => !offeredSubprotocols.includes('camofleet.control')),
  ).toBe(true);
  // The live views of the first page are closed.
  await expect.poll(() => gateway.connections.filter(({ socket }) => socket.readyState === socket.OPEN).length).toBe(2);

  await page.getByRole('button', { name: /Per page/ }).click();
  await page.getByRole('option', { name: '9' }).click();
  await expect(pictures(page)).toHaveCount(6);
  gateway.api.emit({ type: 'session-gone', id: 'w3' });
  await expect(pictures(page)).toHaveCount(5);
  await page.getByRole('button', { name: 'w4' }).click();
  await expect(page).toHaveURL(/\?session=w4/);
  await expect(page.getByRole('button', { name: 'Take control' })).toBeVisible();
});

test('shows how to get a session to view', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway, 0);
  await openDashboard(page, gateway, '?tab=wall');
  await expect(page.getByText('There are no sessions to view')).toBeVisible();
});

test('has no accessibility violations in either theme', { tag: '@once' }, async ({ page, gateway }) => {
  await page.setViewportSize({ width: 1360, height: 900 });
  seed(gateway, 9);
  await openDashboard(page, gateway, '?tab=wall&size=9');
  await expect(pictures(page)).toHaveCount(9);
  // Nine pictures take long on a busy machine.
  await expect.poll(() => pixel(picture(page, 'w8'), 300, 10), { timeout: 30_000 }).toEqual(stripe);
  expect(await accessibilityViolations(page, 'wall')).toEqual([]);
});
