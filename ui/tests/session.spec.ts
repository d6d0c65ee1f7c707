import type { Page } from '@playwright/test';
import { playwrightSnippet } from '../src/features/sessions/playwright-snippet.ts';
import { testSession } from '../src/shared/test-data.ts';
import { openDashboard, row, rows, seed, typeInto } from './dashboard-helpers.ts';
import { background, stripe } from './display.ts';
import { problem, tokens } from './fake-api.ts';
import type { FakeGateway } from './fake-gateway.ts';
import { accessibilityViolations, expect, pixel, test } from './fixtures.ts';

const picture = (page: Page) => page.getByLabel('Screen of session watchable in team-a');
const button = (page: Page, name: string) => page.getByRole('button', { name });

test('the session that is chosen stands in the address, with its live view to look at', async ({
  page,
  gateway,
  display,
}) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await row(page, 'watchable').click();
  await expect(page).toHaveURL(/session=watchable/);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  // The cookie is all that it shows.
  expect(gateway.lastConnection.offeredSubprotocols).toEqual(['camofleet.view']);
  await picture(page).click();
  await page.keyboard.type('x');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  expect(display.typed()).toBe('');

  // News of the session begin nothing anew.
  const created_at = gateway.api.fleet.sessions.get('watchable')?.created_at ?? '';
  gateway.api.emit({ type: 'session', session: gateway.api.watchable('watchable', { created_at, clients: 3 }) });
  await expect(page.getByText('Clients3')).toBeVisible();
  expect(gateway.connections).toHaveLength(1);
  // One that was made again under its name is another.
  gateway.api.emit({ type: 'session', session: gateway.api.watchable('watchable') });
  await expect.poll(() => gateway.connections.length).toBe(2);
  await page.getByRole('button', { name: 'Close' }).click();
  await expect(picture(page)).toHaveCount(0);
});

test('control is asked for, and given back', async ({ page, gateway, display }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await button(page, 'Take control').click();
  await expect(picture(page)).toBeFocused();
  await page.keyboard.type('x');
  await expect.poll(() => display.typed()).toBe('x');
  await page.keyboard.press('Control+Alt+Home');
  await expect(button(page, 'Stop controlling')).toBeFocused();
  await button(page, 'Stop controlling').click();
  await expect(picture(page)).toHaveRole('img');
});

test('control that comes back leaves the focus where it is', async ({ page, gateway, display }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await button(page, 'Take control').click();
  await expect(picture(page)).toBeFocused();
  gateway.lastConnection.socket.close(1001);
  await expect.poll(() => gateway.connections.length).toBe(3);
  await expect(picture(page)).toBeFocused();
  await page.getByRole('searchbox').focus();
  gateway.lastConnection.socket.close(1001);
  await expect.poll(() => gateway.connections.length).toBe(4);
  await expect(picture(page)).toHaveRole('application');
  await page.keyboard.type('x');
  await expect(page.getByRole('searchbox')).toHaveValue('x');
  expect(display.typed()).toBe('');
});

test('when the login is over, it is asked for again', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await expect(picture(page)).toBeVisible();
  gateway.api.role = null;
  gateway.lastConnection.socket.close(4401, 'the token is not valid any more');
  await expect(page.getByLabel('Token')).toBeVisible();
  await typeInto(page.getByLabel('Token'), tokens.admin);
  await button(page, 'Log in').click();
  await expect(picture(page)).toBeVisible();
  gateway.api.role = null;
  await button(page, 'Extend').click();
  await expect(page.getByLabel('Token')).toBeVisible();
});

test('what its runner does not answer is said of a session that is Ready', { tag: '@once' }, async ({
  page,
  gateway,
}) => {
  seed(gateway);
  const lost = { reason: 'RunnerUnreachable', message: 'its runner does not answer' };
  gateway.api.emit({ type: 'session', session: gateway.api.watchable('watchable', lost) });
  await openDashboard(page, gateway, '?session=watchable');
  await expect(page.getByText('its runner does not answer')).toBeVisible();
});

test('the keyboard stays where it is understood', async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await button(page, 'Start session').focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('heading', { name: 'Start a session' })).toBeFocused();
  await button(page, 'Close').focus();
  await page.keyboard.press('Enter');
  await expect(button(page, 'Start session')).toBeFocused();
  await row(page, 'finished').focus();
  await page.keyboard.press('Enter');
  await button(page, 'Extend').focus();
  await expect(
    page.locator('.action-button', { has: button(page, 'Extend') }).getByText(/^It is Finished/),
  ).toBeInViewport();
  await button(page, 'Close').focus();
  await page.keyboard.press('Enter');
  await expect(row(page, 'finished')).toBeFocused();
});

test('a viewer looks; what else there is is disabled, and says why', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable', 'viewer');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  for (const name of ['Start session', 'Take control', 'Playwright line', 'Extend', 'End…']) {
    await expect(button(page, name)).toHaveAttribute('aria-disabled', 'true');
    await expect(button(page, name)).toHaveAccessibleDescription(/viewer/);
    await button(page, name).click({ force: true });
  }
  await expect(page.getByRole('form')).toHaveCount(0);
  await expect(page.getByRole('alertdialog')).toHaveCount(0);
  expect(gateway.api.mintedTokens).toEqual([]);
});

test('the line for Playwright has the address and a token of the session, and is copied', async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await button(page, 'Playwright line').click();
  const line = page.getByLabel('Playwright line', { exact: true }).and(page.locator('textarea'));
  await expect(line).toHaveValue(
    playwrightSnippet(`ws://127.0.0.1:${gateway.port}/ws/team-a/watchable`, 'minted.connect.0'),
  );
  // As on plain HTTP elsewhere than on this machine.
  await page.evaluate(() => Object.defineProperty(navigator, 'clipboard', { value: undefined }));
  await page.evaluate(() => {
    document.addEventListener('copy', () => {
      document.title = String(getSelection());
    });
  });
  await button(page, 'Copy').click();
  await expect(page.getByText('Copied.')).toBeVisible();
  await typeInto(page.getByRole('searchbox'), '');
  await page.getByRole('searchbox').press('Control+V');
  await expect(page.getByRole('searchbox')).toHaveValue(/^const browser = await .*firefox\.connect\('ws:/);
});

test('a session is extended, and ended after a question', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=broken');
  await expect(page.getByText('NS_ERROR_UNKNOWN_HOST')).toBeVisible();
  const left = page.locator('.properties > div').filter({ hasText: 'Idle time left' });
  await expect(left).toContainText(/Idle time left\d+ s/);
  await button(page, 'Extend').click();
  await expect(left).toContainText(/4 min 5\d s|5 min/);
  await expect(page.getByText('Its idle time begins anew.')).toBeVisible();
  await button(page, 'End…').click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Keep it' }).click();
  await expect(page.getByRole('alertdialog')).toHaveCount(0);
  await expect(rows(page)).toHaveCount(5);
  await button(page, 'End…').click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'End it' }).click();
  await expect(page.getByText('There is no session broken')).toBeVisible();
  await expect(rows(page)).toHaveCount(4);
});

test('of a session that waits is told how many are served before it', { tag: '@once' }, async ({ page, gateway }) => {
  gateway.api.emit({ type: 'reset', sessions: [testSession('late', { state: 'Queued' })], pools: [] });
  await openDashboard(page, gateway, '?session=late');
  await expect(page.getByText('Served before it3 sessions')).toBeVisible();
  gateway.api.queuePosition = 1;
  await expect(page.getByText('Served before it1 session')).toBeVisible();
  gateway.api.emit({ type: 'session', session: testSession('late', { state: 'Starting' }) });
  await expect(page.getByText('Served before it')).toBeHidden();
});

test('a session that waits or is over cannot be used, and says why', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=finished');
  await expect(page.getByText('nobody did anything for 300 s')).toBeVisible();
  await expect(button(page, 'Extend')).toHaveAccessibleDescription('It is Finished, not Ready.');
  await expect(button(page, 'End…')).toHaveAccessibleDescription('It is over.');
});

test.describe('the form', () => {
  const start = (page: Page) => page.getByRole('button', { name: 'Start', exact: true });

  test('asks for what is filled in, and goes to the session', async ({ page, gateway }) => {
    seed(gateway);
    await openDashboard(page, gateway);
    await button(page, 'Start session').click();
    await page.getByRole('button', { name: /Pool/ }).click();
    await page.getByRole('option', { name: 'firefox' }).click();
    await page.getByText('Live view', { exact: true }).click();
    await typeInto(page.getByLabel('Start page', { exact: true }), 'example.org');
    await page.getByRole('button', { name: /counts as loaded/ }).click();
    await page.getByRole('option', { name: /document is there/ }).click();
    await typeInto(page.getByLabel('Idle time in seconds'), '60');
    await typeInto(page.getByLabel('Life time in seconds'), '3600');
    await typeInto(page.getByLabel('Labels'), 'team=blue\njob=prices');
    await start(page).click();
    await expect(page).toHaveURL(/session=made-1/);
    expect(gateway.api.createRequests).toEqual([
      {
        worker: 'firefox',
        vnc: true,
        start_url: 'example.org',
        start_url_wait: 'domcontentloaded',
        idle_ttl_seconds: 60,
        max_lifetime_seconds: 3600,
        labels: { team: 'blue', job: 'prices' },
      },
    ]);
    await expect.poll(() => pixel(page.getByLabel('Screen of session made-1 in team-a'), 300, 10)).toEqual(stripe);
  });

  test('tells what is wrong at its field, until it is mended', { tag: '@once' }, async ({ page, gateway }) => {
    seed(gateway);
    await openDashboard(page, gateway, '?start=1');
    const idle = page.getByLabel('Idle time in seconds');
    const address = page.getByLabel('Start page', { exact: true });
    await typeInto(idle, '5');
    await start(page).click();
    await expect(idle).toBeFocused();
    await expect(idle).toHaveAccessibleDescription(/from 30 to 86400/);
    expect(gateway.api.createRequests).toEqual([]);
    await typeInto(idle, '30');
    await expect(idle).not.toHaveAttribute('aria-invalid', 'true');

    gateway.api.onCreate = () =>
      problem(422, [{ loc: ['body', 'start_url'], msg: 'this is no http, https or data URL', type: 'url' }]);
    await typeInto(address, 'ftp://example.org');
    await start(page).click();
    await expect(address).toBeFocused();
    await expect(address).toHaveAccessibleDescription(/this is no http/);
    await typeInto(page.getByLabel('Labels'), 'a=b');
    await expect(address).toHaveAccessibleDescription(/this is no http/);
    await expect(page.getByText('Some fields are not valid.')).toBeVisible();
    await typeInto(address, 'https://example.org');
    await expect(address).not.toHaveAttribute('aria-invalid', 'true');
    await expect(page.getByText('Some fields are not valid.')).toHaveCount(0);
    gateway.api.onCreate = null;
    await start(page).click();
    await expect(page).toHaveURL(/session=made-2/);
  });

  test('tells the words of the gateway when there is no slot, and keeps what is filled in', { tag: '@once' }, async ({
    page,
    gateway,
  }) => {
    seed(gateway);
    gateway.api.onCreate = () => problem(503, 'no slot was free for 45 s: try again, or make the pool larger');
    await openDashboard(page, gateway, '?start=1');
    await typeInto(page.getByLabel('Labels'), 'a=b');
    await start(page).click();
    await expect(page.getByRole('alert')).toHaveText('no slot was free for 45 s: try again, or make the pool larger');
    await expect(page.getByLabel('Labels')).toHaveValue('a=b');
  });

  test('keeps what is filled in until it is closed, whatever else is looked at', async ({ page, gateway }) => {
    seed(gateway);
    await openDashboard(page, gateway, '?start=1');
    const labels = page.getByLabel('Labels');
    await typeInto(labels, 'a=b');
    await page.getByRole('tab', { name: 'Pools' }).click();
    await page.getByRole('tab', { name: 'Sessions' }).click();
    await expect(labels).toHaveValue('a=b');
    await row(page, 'watchable').click();
    await expect(labels).toBeHidden();
    await button(page, 'Start session').click();
    await expect(labels).toHaveValue('a=b');
    await button(page, 'Close').click();
    await button(page, 'Start session').click();
    await expect(labels).toHaveValue('');
  });

  /** Starts a session that the gateway does not answer for. `aborted`: the page waits for it no longer. */
  async function startWithoutAnswer(page: Page, gateway: FakeGateway): Promise<{ aborted: Promise<unknown> }> {
    seed(gateway);
    gateway.api.onCreate = () => new Promise(() => {});
    await openDashboard(page, gateway, '?start=1');
    const aborted = page.waitForEvent('requestfailed', (request) => request.method() === 'POST');
    await start(page).click();
    await expect(page.getByText('It waits up to a minute')).toBeVisible();
    return { aborted };
  }

  test('is left with what it waits for taken back', { tag: '@once' }, async ({ page, gateway }) => {
    const { aborted } = await startWithoutAnswer(page, gateway);
    await page.getByRole('tab', { name: 'Pools' }).click();
    await aborted;
  });

  test('takes back what it waits for', { tag: '@once' }, async ({ page, gateway }) => {
    const { aborted } = await startWithoutAnswer(page, gateway);
    await button(page, 'Cancel').click();
    await aborted;
    await expect(page.getByText('It waits up to a minute')).toBeHidden();
    await expect(start(page)).toBeFocused();
    await expect(page.getByRole('alert')).toBeHidden();
    gateway.api.onCreate = null;
    await start(page).click();
    await expect(page).toHaveURL(/session=made-2/);
  });
});

test('the keyboard alone comes to a session and its end', async ({ page, gateway }) => {
  gateway.api.emit({ type: 'reset', pools: [], sessions: [testSession('only')] });
  await openDashboard(page, gateway);
  await expect(row(page, 'only')).toBeVisible();
  await page.getByRole('searchbox').focus();
  for (const name of ['State', 'Start session']) {
    await page.keyboard.press('Tab');
    await expect(page.getByRole('button', { name: new RegExp(name) })).toBeFocused();
  }
  await page.keyboard.press('Tab');
  await expect(row(page, 'only')).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/session=only/);
  await button(page, 'End…').focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('alertdialog')).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(button(page, 'End…')).toBeFocused();
});

test('accessible in both themes', { tag: '@once' }, async ({ page, gateway }) => {
  await page.setViewportSize({ width: 1360, height: 900 });
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await button(page, 'Playwright line').click();
  await expect(button(page, 'Copy')).toBeVisible();
  expect(await accessibilityViolations(page, 'session')).toEqual([]);
  await button(page, 'End…').click();
  await expect(page.getByRole('alertdialog')).toBeVisible();
  expect(await accessibilityViolations(page, 'end')).toEqual([]);
  await page.keyboard.press('Escape');
  await button(page, 'Start session').click();
  await typeInto(page.getByLabel('Idle time in seconds'), '5');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await expect(page.getByText('from 30 to 86400')).toBeVisible();
  expect(await accessibilityViolations(page, 'form')).toEqual([]);
});
