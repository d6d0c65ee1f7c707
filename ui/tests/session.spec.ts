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

test('a selected session is in the URL and shows its live view with the scope view', async ({
  page,
  gateway,
  display,
}) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await row(page, 'watchable').click();
  await expect(page).toHaveURL(/session=watchable/);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  // It authenticates with the login cookie, so it offers no token.
  expect(gateway.lastConnection.offeredSubprotocols).toEqual(['camofleet.view']);
  await picture(page).click();
  await page.keyboard.type('x');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  expect(display.typed()).toBe('');

  // An update of the session does not reconnect the live view.
  const created_at = gateway.api.fleet.sessions.get('watchable')?.created_at ?? '';
  gateway.api.emit({ type: 'session', session: gateway.api.watchable('watchable', { created_at, clients: 3 }) });
  await expect(page.getByText('Clients3')).toBeVisible();
  expect(gateway.connections).toHaveLength(1);
  // A session that was created again under the same name is another session.
  gateway.api.emit({ type: 'session', session: gateway.api.watchable('watchable') });
  await expect.poll(() => gateway.connections.length).toBe(2);
  await page.getByRole('button', { name: 'Close' }).click();
  await expect(picture(page)).toHaveCount(0);
});

test('takes control and gives it back', async ({ page, gateway, display }) => {
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

test('regaining control after a reconnect does not move the focus', async ({ page, gateway, display }) => {
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

test('shows the login form when the login has expired', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await expect(picture(page)).toBeVisible();
  gateway.api.role = null;
  gateway.lastConnection.socket.close(4401, 'the token is no longer valid');
  await expect(page.getByLabel('Token')).toBeVisible();
  await typeInto(page.getByLabel('Token'), tokens.admin);
  await button(page, 'Log in').click();
  await expect(picture(page)).toBeVisible();
  gateway.api.role = null;
  await button(page, 'Reset idle time').click();
  await expect(page.getByLabel('Token')).toBeVisible();
});

test('shows why the runner of a Ready session is unreachable', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  const lost = { reason: 'RunnerUnreachable', message: 'the runner does not answer' };
  gateway.api.emit({ type: 'session', session: gateway.api.watchable('watchable', lost) });
  await openDashboard(page, gateway, '?session=watchable');
  await expect(page.getByText('the runner does not answer')).toBeVisible();
});

test('opening and closing a panel keeps the keyboard focus', async ({ page, gateway }) => {
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
  await button(page, 'Reset idle time').focus();
  await expect(
    page.locator('.action-button', { has: button(page, 'Reset idle time') }).getByText(/^The session is Finished/),
  ).toBeInViewport();
  await button(page, 'Close').focus();
  await page.keyboard.press('Enter');
  await expect(row(page, 'finished')).toBeFocused();
});

test('a viewer can only view, and each disabled button shows why', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable', 'viewer');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  for (const name of ['Start session', 'Take control', 'Playwright snippet', 'Reset idle time', 'End…']) {
    await expect(button(page, name)).toHaveAttribute('aria-disabled', 'true');
    await expect(button(page, name)).toHaveAccessibleDescription(/viewer/);
    await button(page, name).click({ force: true });
  }
  await expect(page.getByRole('form')).toHaveCount(0);
  await expect(page.getByRole('alertdialog')).toHaveCount(0);
  expect(gateway.api.mintedTokens).toEqual([]);
});

test('the Playwright snippet has the URL and a token of the session, and can be copied', async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await button(page, 'Playwright snippet').click();
  const snippet = page.getByLabel('Playwright snippet', { exact: true }).and(page.locator('textarea'));
  await expect(snippet).toHaveValue(
    playwrightSnippet(`ws://127.0.0.1:${gateway.port}/ws/team-a/watchable`, 'minted.connect.0'),
  );
  // As on plain HTTP from another machine.
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

test('resets the idle time of a session, and ends it after a confirmation', { tag: '@once' }, async ({
  page,
  gateway,
}) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=broken');
  await expect(page.getByText('NS_ERROR_UNKNOWN_HOST')).toBeVisible();
  const left = page.locator('.properties > div').filter({ hasText: 'Idle time left' });
  await expect(left).toContainText(/Idle time left\d+ s/);
  await button(page, 'Reset idle time').click();
  await expect(left).toContainText(/4 min 5\d s|5 min/);
  await expect(page.getByText('The idle time was reset.')).toBeVisible();
  await button(page, 'End…').click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'Cancel' }).click();
  await expect(page.getByRole('alertdialog')).toHaveCount(0);
  await expect(rows(page)).toHaveCount(5);
  await button(page, 'End…').click();
  await page.getByRole('alertdialog').getByRole('button', { name: 'End session' }).click();
  await expect(page.getByText('There is no session broken')).toBeVisible();
  await expect(rows(page)).toHaveCount(4);
});

test('shows how many sessions are ahead of a queued one', { tag: '@once' }, async ({ page, gateway }) => {
  gateway.api.emit({ type: 'reset', sessions: [testSession('late', { state: 'Queued' })], pools: [] });
  await openDashboard(page, gateway, '?session=late');
  await expect(page.getByText('Ahead in the queue3 sessions')).toBeVisible();
  gateway.api.queuePosition = 1;
  await expect(page.getByText('Ahead in the queue1 session')).toBeVisible();
  gateway.api.emit({ type: 'session', session: testSession('late', { state: 'Starting' }) });
  await expect(page.getByText('Ahead in the queue')).toBeHidden();
});

test('a finished session cannot be used, and its buttons show why', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?session=finished');
  await expect(page.getByText('no client was active for 300 s')).toBeVisible();
  await expect(button(page, 'Reset idle time')).toHaveAccessibleDescription('The session is Finished, not Ready.');
  await expect(button(page, 'End…')).toHaveAccessibleDescription('The session has finished.');
});

test.describe('the start form', () => {
  const start = (page: Page) => page.getByRole('button', { name: 'Start', exact: true });

  test('sends the values and selects the new session', async ({ page, gateway }) => {
    seed(gateway);
    await openDashboard(page, gateway);
    await button(page, 'Start session').click();
    await page.getByRole('button', { name: /Pool/ }).click();
    await page.getByRole('option', { name: 'firefox' }).click();
    await page.getByText('Live view', { exact: true }).click();
    await typeInto(page.getByLabel('Start page', { exact: true }), 'example.org');
    await page.getByRole('button', { name: /Start page counts as loaded/ }).click();
    await page.getByRole('option', { name: /document is parsed/ }).click();
    await typeInto(page.getByLabel('Idle timeout in seconds'), '60');
    await typeInto(page.getByLabel('Maximum lifetime in seconds'), '3600');
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

  test('shows an error at its field until it is corrected', { tag: '@once' }, async ({ page, gateway }) => {
    seed(gateway);
    await openDashboard(page, gateway, '?start=1');
    const idle = page.getByLabel('Idle timeout in seconds');
    const address = page.getByLabel('Start page', { exact: true });
    await typeInto(idle, '5');
    await start(page).click();
    await expect(idle).toBeFocused();
    await expect(idle).toHaveAccessibleDescription(/from 30 to 86400/);
    expect(gateway.api.createRequests).toEqual([]);
    await typeInto(idle, '30');
    await expect(idle).not.toHaveAttribute('aria-invalid', 'true');

    gateway.api.onCreate = () =>
      problem(422, [{ loc: ['body', 'start_url'], msg: 'is not an http, https or data URL', type: 'url' }]);
    await typeInto(address, 'ftp://example.org');
    await start(page).click();
    await expect(address).toBeFocused();
    await expect(address).toHaveAccessibleDescription(/is not an http/);
    await typeInto(page.getByLabel('Labels'), 'a=b');
    await expect(address).toHaveAccessibleDescription(/is not an http/);
    await expect(page.getByText('Some fields are not valid.')).toBeVisible();
    await typeInto(address, 'https://example.org');
    await expect(address).not.toHaveAttribute('aria-invalid', 'true');
    await expect(page.getByText('Some fields are not valid.')).toHaveCount(0);
    gateway.api.onCreate = null;
    await start(page).click();
    await expect(page).toHaveURL(/session=made-2/);
  });

  test('shows the error of the gateway when no slot is free, and keeps the values', { tag: '@once' }, async ({
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

  test('keeps its values until it is closed', async ({ page, gateway }) => {
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

  /** Submits a request that the gateway never answers. `aborted` resolves when the page aborts it. */
  async function startWithoutAnswer(page: Page, gateway: FakeGateway): Promise<{ aborted: Promise<unknown> }> {
    seed(gateway);
    gateway.api.onCreate = () => new Promise(() => {});
    await openDashboard(page, gateway, '?start=1');
    const aborted = page.waitForEvent('requestfailed', (request) => request.method() === 'POST');
    await start(page).click();
    await expect(page.getByText('Waiting up to a minute')).toBeVisible();
    return { aborted };
  }

  test('leaving it aborts the pending request', { tag: '@once' }, async ({ page, gateway }) => {
    const { aborted } = await startWithoutAnswer(page, gateway);
    await page.getByRole('tab', { name: 'Pools' }).click();
    await aborted;
  });

  test('Cancel aborts the pending request', { tag: '@once' }, async ({ page, gateway }) => {
    const { aborted } = await startWithoutAnswer(page, gateway);
    await button(page, 'Cancel').click();
    await aborted;
    await expect(page.getByText('Waiting up to a minute')).toBeHidden();
    await expect(start(page)).toBeFocused();
    await expect(page.getByRole('alert')).toBeHidden();
    gateway.api.onCreate = null;
    await start(page).click();
    await expect(page).toHaveURL(/session=made-2/);
  });
});

test('selects and ends a session with the keyboard alone', async ({ page, gateway }) => {
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

test('has no accessibility violations in either theme', { tag: '@once' }, async ({ page, gateway }) => {
  await page.setViewportSize({ width: 1360, height: 900 });
  seed(gateway);
  await openDashboard(page, gateway, '?session=watchable');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await button(page, 'Playwright snippet').click();
  await expect(button(page, 'Copy')).toBeVisible();
  expect(await accessibilityViolations(page, 'session')).toEqual([]);
  await button(page, 'End…').click();
  await expect(page.getByRole('alertdialog')).toBeVisible();
  expect(await accessibilityViolations(page, 'end')).toEqual([]);
  await page.keyboard.press('Escape');
  await button(page, 'Start session').click();
  await typeInto(page.getByLabel('Idle timeout in seconds'), '5');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await expect(page.getByText('from 30 to 86400')).toBeVisible();
  expect(await accessibilityViolations(page, 'form')).toEqual([]);
});
