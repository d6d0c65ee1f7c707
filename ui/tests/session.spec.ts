import type { Page } from '@playwright/test';
import { playwrightLine } from '../src/features/sessions/playwright.ts';
import { exampleSession } from '../src/shared/examples.ts';
import { problem, tokens } from './api.ts';
import { enter, fill, row, rows, typeInto } from './dashboard.ts';
import { ground, stripe } from './display.ts';
import { expect, faultsOf, pixel, test } from './fixtures.ts';
import type { Gateway } from './gateway.ts';

const picture = (page: Page) => page.getByLabel('Screen of session watched in team-a');
const button = (page: Page, name: string) => page.getByRole('button', { name });

test('the session that is chosen stands in the address, with its live view to look at', async ({
  page,
  gateway,
  display,
}) => {
  fill(gateway);
  await enter(page, gateway);
  await row(page, 'watched').click();
  await expect(page).toHaveURL(/session=watched/);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  // The cookie is all that it shows.
  expect(gateway.call.offered).toEqual(['camofleet.view']);
  await picture(page).click();
  await page.keyboard.type('x');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(ground);
  expect(display.typed()).toBe('');

  // News of the session begin nothing anew.
  const created_at = gateway.api.fleet.sessions.get('watched')?.created_at ?? '';
  gateway.api.tell({ type: 'session', session: gateway.api.watched('watched', { created_at, clients: 3 }) });
  await expect(page.getByText('Clients3')).toBeVisible();
  expect(gateway.calls).toHaveLength(1);
  // One that was made again under its name is another.
  gateway.api.tell({ type: 'session', session: gateway.api.watched('watched') });
  await expect.poll(() => gateway.calls.length).toBe(2);
  await page.getByRole('button', { name: 'Close' }).click();
  await expect(picture(page)).toHaveCount(0);
});

test('control is asked for, and given back', async ({ page, gateway, display }) => {
  fill(gateway);
  await enter(page, gateway, '?session=watched');
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
  fill(gateway);
  await enter(page, gateway, '?session=watched');
  await button(page, 'Take control').click();
  await expect(picture(page)).toBeFocused();
  gateway.call.socket.close(1001);
  await expect.poll(() => gateway.calls.length).toBe(3);
  await expect(picture(page)).toBeFocused();
  await page.getByRole('searchbox').focus();
  gateway.call.socket.close(1001);
  await expect.poll(() => gateway.calls.length).toBe(4);
  await expect(picture(page)).toHaveRole('application');
  await page.keyboard.type('x');
  await expect(page.getByRole('searchbox')).toHaveValue('x');
  expect(display.typed()).toBe('');
});

test('when the login is over, it is asked for again', { tag: '@once' }, async ({ page, gateway }) => {
  fill(gateway);
  await enter(page, gateway, '?session=watched');
  await expect(picture(page)).toBeVisible();
  gateway.api.role = null;
  gateway.call.socket.close(4401, 'the token is no longer valid');
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
  fill(gateway);
  const lost = { reason: 'RunnerUnreachable', message: 'its runner does not answer' };
  gateway.api.tell({ type: 'session', session: gateway.api.watched('watched', lost) });
  await enter(page, gateway, '?session=watched');
  await expect(page.getByText('its runner does not answer')).toBeVisible();
});

test('the keyboard stays where it is understood', async ({ page, gateway }) => {
  fill(gateway);
  await enter(page, gateway);
  await button(page, 'Start session').focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('heading', { name: 'Start a session' })).toBeFocused();
  await button(page, 'Close').focus();
  await page.keyboard.press('Enter');
  await expect(button(page, 'Start session')).toBeFocused();
  await row(page, 'over').focus();
  await page.keyboard.press('Enter');
  await button(page, 'Extend').focus();
  await expect(page.locator('.action', { has: button(page, 'Extend') }).getByText(/^It is Finished/)).toBeInViewport();
  await button(page, 'Close').focus();
  await page.keyboard.press('Enter');
  await expect(row(page, 'over')).toBeFocused();
});

test('a viewer looks; what else there is is disabled, and says why', { tag: '@once' }, async ({ page, gateway }) => {
  fill(gateway);
  await enter(page, gateway, '?session=watched', 'viewer');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  for (const name of ['Start session', 'Take control', 'Playwright line', 'Extend', 'End…']) {
    await expect(button(page, name)).toHaveAttribute('aria-disabled', 'true');
    await expect(button(page, name)).toHaveAccessibleDescription(/viewer/);
    await button(page, name).click({ force: true });
  }
  await expect(page.getByRole('form')).toHaveCount(0);
  await expect(page.getByRole('alertdialog')).toHaveCount(0);
  expect(gateway.api.minted).toEqual([]);
});

test('the line for Playwright has the address and a token of the session, and is copied', async ({ page, gateway }) => {
  fill(gateway);
  await enter(page, gateway, '?session=watched');
  await button(page, 'Playwright line').click();
  const line = page.getByLabel('Playwright line', { exact: true }).and(page.locator('textarea'));
  await expect(line).toHaveValue(
    playwrightLine(`ws://127.0.0.1:${gateway.port}/ws/team-a/watched`, 'minted.connect.0'),
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
  fill(gateway);
  await enter(page, gateway, '?session=broken');
  await expect(page.getByText('NS_ERROR_UNKNOWN_HOST')).toBeVisible();
  const left = page.locator('.facts > div').filter({ hasText: 'Idle time left' });
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
  gateway.api.tell({ type: 'reset', sessions: [exampleSession('late', { state: 'Queued' })], workers: [] });
  await enter(page, gateway, '?session=late');
  await expect(page.getByText('Served before it3 sessions')).toBeVisible();
  gateway.api.queuePosition = 1;
  await expect(page.getByText('Served before it1 session')).toBeVisible();
  gateway.api.tell({ type: 'session', session: exampleSession('late', { state: 'Starting' }) });
  await expect(page.getByText('Served before it')).toBeHidden();
});

test('a session that waits or is over cannot be used, and says why', { tag: '@once' }, async ({ page, gateway }) => {
  fill(gateway);
  await enter(page, gateway, '?session=over');
  await expect(page.getByText('nobody did anything for 300 s')).toBeVisible();
  await expect(button(page, 'Extend')).toHaveAccessibleDescription('It is Finished, not Ready.');
  await expect(button(page, 'End…')).toHaveAccessibleDescription('It is over.');
});

test.describe('the form', () => {
  const start = (page: Page) => page.getByRole('button', { name: 'Start', exact: true });

  test('asks for what is filled in, and goes to the session', async ({ page, gateway }) => {
    fill(gateway);
    await enter(page, gateway);
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
    expect(gateway.api.asked).toEqual([
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
    fill(gateway);
    await enter(page, gateway, '?start=1');
    const idle = page.getByLabel('Idle time in seconds');
    const address = page.getByLabel('Start page', { exact: true });
    await typeInto(idle, '5');
    await start(page).click();
    await expect(idle).toBeFocused();
    await expect(idle).toHaveAccessibleDescription(/from 30 to 86400/);
    expect(gateway.api.asked).toEqual([]);
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
    fill(gateway);
    gateway.api.onCreate = () => problem(503, 'no slot was free for 45 s: try again, or make the pool larger');
    await enter(page, gateway, '?start=1');
    await typeInto(page.getByLabel('Labels'), 'a=b');
    await start(page).click();
    await expect(page.getByRole('alert')).toHaveText('no slot was free for 45 s: try again, or make the pool larger');
    await expect(page.getByLabel('Labels')).toHaveValue('a=b');
  });

  test('keeps what is filled in until it is closed, whatever else is looked at', async ({ page, gateway }) => {
    fill(gateway);
    await enter(page, gateway, '?start=1');
    const labels = page.getByLabel('Labels');
    await typeInto(labels, 'a=b');
    await page.getByRole('tab', { name: 'Pools' }).click();
    await page.getByRole('tab', { name: 'Sessions' }).click();
    await expect(labels).toHaveValue('a=b');
    await row(page, 'watched').click();
    await expect(labels).toBeHidden();
    await button(page, 'Start session').click();
    await expect(labels).toHaveValue('a=b');
    await button(page, 'Close').click();
    await button(page, 'Start session').click();
    await expect(labels).toHaveValue('');
  });

  /** Starts a session that the gateway does not answer for. `hungUp`: the page waits for it no longer. */
  async function startInVain(page: Page, gateway: Gateway): Promise<{ hungUp: Promise<unknown> }> {
    fill(gateway);
    gateway.api.onCreate = () => new Promise(() => {});
    await enter(page, gateway, '?start=1');
    const hungUp = page.waitForEvent('requestfailed', (request) => request.method() === 'POST');
    await start(page).click();
    await expect(page.getByText('It waits up to a minute')).toBeVisible();
    return { hungUp };
  }

  test('is left with what it waits for taken back', { tag: '@once' }, async ({ page, gateway }) => {
    const { hungUp } = await startInVain(page, gateway);
    await page.getByRole('tab', { name: 'Pools' }).click();
    await hungUp;
  });

  test('takes back what it waits for', { tag: '@once' }, async ({ page, gateway }) => {
    const { hungUp } = await startInVain(page, gateway);
    await button(page, 'Cancel').click();
    await hungUp;
    await expect(page.getByText('It waits up to a minute')).toBeHidden();
    await expect(start(page)).toBeFocused();
    await expect(page.getByRole('alert')).toBeHidden();
    gateway.api.onCreate = null;
    await start(page).click();
    await expect(page).toHaveURL(/session=made-2/);
  });
});

test('the keyboard alone comes to a session and its end', async ({ page, gateway }) => {
  gateway.api.tell({ type: 'reset', workers: [], sessions: [exampleSession('only')] });
  await enter(page, gateway);
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
  fill(gateway);
  await enter(page, gateway, '?session=watched');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await button(page, 'Playwright line').click();
  await expect(button(page, 'Copy')).toBeVisible();
  expect(await faultsOf(page, 'session')).toEqual([]);
  await button(page, 'End…').click();
  await expect(page.getByRole('alertdialog')).toBeVisible();
  expect(await faultsOf(page, 'end')).toEqual([]);
  await page.keyboard.press('Escape');
  await button(page, 'Start session').click();
  await typeInto(page.getByLabel('Idle time in seconds'), '5');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await expect(page.getByText('from 30 to 86400')).toBeVisible();
  expect(await faultsOf(page, 'form')).toEqual([]);
});
