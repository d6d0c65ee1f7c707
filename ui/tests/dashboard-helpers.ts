/** Helpers for the tests of the dashboard. */

import { expect, type Locator, type Page } from '@playwright/test';
import { testPool, testSession } from '../src/shared/test-data.ts';
import { login, type Role } from './fake-api.ts';
import type { FakeGateway } from './fake-gateway.ts';

export const rows = (page: Page) =>
  page
    .getByRole('grid', { name: 'Sessions' })
    .getByRole('row')
    .filter({ has: page.getByRole('rowheader') });
export const row = (page: Page, name: string) => rows(page).filter({ hasText: name });

/** Fills the fleet with two pools, and with sessions in each state. */
export function seed({ api }: FakeGateway): void {
  const ago = (seconds: number) => new Date(Date.now() - 1000 * seconds).toISOString();
  api.emit({
    type: 'reset',
    pools: [
      testPool('camoufox'),
      testPool('firefox', {
        engine: 'Firefox',
        healthy: false,
        ready_replicas: 0,
        queued: 2,
        slots: { total: 2, used: 2, hot: 0, starting: 0 },
        conditions: [{ type: 'Available', status: 'False', reason: 'NoFreeSlot', message: 'All slots are used' }],
      }),
    ],
    sessions: [
      testSession('finished', {
        state: 'Finished',
        reason: 'IdleTimeout',
        message: 'no client was active for 300 s',
        created_at: ago(4000),
        finished_at: ago(600),
      }),
      api.watchable('watchable', {
        created_at: ago(7200),
        last_seen_at: ago(20),
        labels: { team: 'blue', job: 'prices' },
        start_url: 'https://example.org/',
        start_page: { state: 'loaded' },
      }),
      testSession('broken', {
        created_at: ago(100),
        last_seen_at: ago(280),
        start_url: 'https://nowhere.example/',
        start_page: { state: 'failed', message: 'NS_ERROR_UNKNOWN_HOST' },
      }),
      testSession('queued-later', { state: 'Queued', worker: 'firefox', created_at: ago(5), reason: 'Queued' }),
      testSession('queued-first', { state: 'Queued', worker: 'firefox', created_at: ago(9), reason: 'Queued' }),
    ],
  });
}

/** Opens the dashboard as a user who is logged in. */
export async function openDashboard(page: Page, gateway: FakeGateway, query = '', role: Role = 'admin'): Promise<void> {
  gateway.api.role = role;
  await page.context().addCookies([{ name: login.name, value: login.value, url: gateway.dashboard() }]);
  await page.goto(gateway.dashboard(query));
  await expect(page.getByRole('tablist')).toBeVisible();
}

/**
 * Replaces the text of a field by typing. `fill` does not work over BiDi: Firefox sets the value, but React receives
 * no event.
 */
export async function typeInto(field: Locator, text: string): Promise<void> {
  await field.focus();
  await field.press('Control+A');
  if (text === '') await field.press('Delete');
  else await field.pressSequentially(text);
}
