import { testPool, testSession } from '../src/shared/test-data.ts';
import { openDashboard, row, rows, seed, typeInto } from './dashboard-helpers.ts';
import { tokens } from './fake-api.ts';
import { accessibilityViolations, expect, test } from './fixtures.ts';

test('asks for a token once, and rejects an unknown one', async ({ page, gateway }) => {
  await page.goto(gateway.dashboard());
  await typeInto(page.getByLabel('Token'), 'wrong');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('alert')).toHaveText('the token is unknown');
  await typeInto(page.getByLabel('Token'), tokens.viewer);
  await page.keyboard.press('Enter');
  await expect(page.getByText('Logged in as viewer')).toBeVisible();
  await page.reload();
  await expect(page.getByText('Logged in as viewer')).toBeVisible();
  const { port } = gateway;
  await gateway.stop();
  await page.getByRole('button', { name: 'Log out' }).click();
  await expect(page.getByRole('alert')).toHaveText(/cannot be reached/);
  await gateway.listen(port);
  await page.getByRole('button', { name: 'Log out' }).click();
  await expect(page.getByLabel('Token')).toBeVisible();
});

test('the table follows the events', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await expect(rows(page).getByRole('rowheader')).toHaveText([
    'queued-first',
    'queued-later',
    'broken',
    'watchable',
    'finished',
  ]);
  await expect(row(page, 'watchable')).toContainText('team=bluejob=prices');
  await expect(row(page, 'watchable')).toContainText('2 h');
  await expect(row(page, 'watchable')).toContainText('4 min');
  await expect(row(page, 'watchable')).toContainText('Loaded');
  await expect(row(page, 'broken')).toContainText('Failed');
  await expect(row(page, 'finished')).toContainText('IdleTimeout');
  gateway.api.emit({ type: 'session', session: testSession('queued-first', { worker: 'firefox' }) });
  await expect(row(page, 'queued-first')).toContainText('Ready');
  gateway.api.emit({ type: 'session-gone', id: 'finished' });
  await expect(row(page, 'finished')).toHaveCount(0);
  await expect(page.getByText('4 sessions')).toBeVisible();
});

test('keeps search and filter in the URL', async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?state=Queued');
  await expect(rows(page)).toHaveCount(2);
  await typeInto(page.getByRole('searchbox'), 'first');
  await expect(rows(page)).toHaveCount(1);
  await expect(page.getByText('1 of 5')).toBeVisible();
  await expect(page).toHaveURL(/\?q=first&state=Queued$/);
  await page.reload();
  await expect(rows(page)).toHaveCount(1);
  await page.getByRole('button', { name: /State/ }).click();
  await page.getByRole('option', { name: 'Ready' }).click();
  await expect(page.getByText('No session matches')).toBeVisible();
  await page.getByRole('tab', { name: 'Pools' }).click();
  await expect(page).toHaveURL(/tab=pools/);
  await page.goBack();
  await expect(page.getByRole('searchbox')).toHaveValue('first');
});

test('selects another namespace and starts a session in it', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  const other = testSession('elsewhere', { namespace: 'team-b' });
  gateway.api.otherFleets.set('team-b', {
    sessions: new Map([[other.id, other]]),
    pools: new Map([['pool-b', testPool('pool-b', { namespace: 'team-b' })]]),
  });
  await openDashboard(page, gateway, '?session=watchable');
  await page.getByRole('button', { name: /Namespace/ }).click();
  await page.getByRole('option', { name: 'team-b' }).click();
  await expect(page).toHaveURL(/\?ns=team-b$/);
  await expect(rows(page)).toHaveText([/elsewhere/]);
  await page.getByRole('button', { name: 'Start session' }).click();
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await expect(page).toHaveURL(/session=made-1/);
  expect(gateway.api.createdIn).toEqual(['team-b']);
  await page.getByRole('button', { name: /Namespace/ }).click();
  await page.getByRole('option', { name: 'team-a' }).click();
  await expect(row(page, 'watchable')).toBeVisible();
});

test('shows the slots and conditions of pools', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway, '?tab=pools');
  const pool = page.getByRole('article', { name: 'firefox' });
  await expect(pool).toContainText('Does not serve sessions');
  await expect(pool.getByRole('row', { name: 'Available' })).toContainText('All slots are used');
  await expect(pool).toContainText('Queued2');
  gateway.api.emit({ type: 'pool', pool: testPool('firefox', { queued: 0 }) });
  await expect(pool).toContainText('Queued0');
  gateway.api.emit({ type: 'pool-gone', id: 'firefox' }, { type: 'pool-gone', id: 'camoufox' });
  await expect(page.getByText('There are no pools yet')).toBeVisible();
});

test('shows that the gateway is unreachable, and recovers', async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await expect(rows(page)).toHaveCount(5);
  const { port } = gateway;
  await gateway.stop();
  await expect(page.getByText('The connection to the gateway is lost')).toBeVisible();
  await expect(rows(page)).toHaveCount(5);
  gateway.api.emit({ type: 'session-gone', id: 'finished' });
  await gateway.listen(port);
  await expect(rows(page)).toHaveCount(4);
  await expect(page.getByText('The connection to the gateway is lost')).toBeHidden();
});

test('reopens a silent event stream', async ({ page, gateway }) => {
  seed(gateway);
  await page.clock.install();
  await openDashboard(page, gateway);
  await expect(rows(page)).toHaveCount(5);
  expect(gateway.api.streamRequests).toBe(1);
  await page.clock.runFor(30_000);
  expect(gateway.api.streamRequests).toBe(1);
  await page.clock.runFor(11_000);
  await expect.poll(() => gateway.api.streamRequests).toBe(2);
  const lost = page.getByText('The connection to the gateway is lost');
  await expect(lost).toBeHidden();
  await expect.poll(() => gateway.api.openStreams).toBe(1);
  gateway.api.emit({ type: 'session-gone', id: 'finished' });
  await expect(rows(page)).toHaveCount(4);

  gateway.api.answersStreams = false;
  await page.clock.runFor(41_000);
  await expect.poll(() => gateway.api.streamRequests).toBe(3);
  await expect(lost).toBeHidden();
  await page.clock.runFor(10_000);
  await expect(lost).toBeVisible();
  gateway.api.answersStreams = true;
  await page.clock.runFor(10_000);
  await expect(lost).toBeHidden();
});

test('a hidden page closes its event stream', async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await expect(rows(page)).toHaveCount(5);
  const hide = (hidden: boolean) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
  await hide(true);
  await expect.poll(() => gateway.api.openStreams).toBe(0);
  gateway.api.emit({ type: 'session-gone', id: 'finished' });
  await hide(false);
  await expect(rows(page)).toHaveCount(4);
});

test('shows the login form when the login has expired', { tag: '@once' }, async ({ page, gateway }) => {
  seed(gateway);
  await openDashboard(page, gateway);
  await expect(rows(page)).toHaveCount(5);
  gateway.api.role = null;
  const { port } = gateway;
  await gateway.stop();
  await gateway.listen(port);
  await expect(page.getByLabel('Token')).toBeVisible();
});

test('renders only the visible rows of a thousand sessions, and the keyboard reaches the last', async ({
  page,
  gateway,
}) => {
  const sessions = Array.from({ length: 1000 }, (_, n) =>
    testSession(`s-${String(n).padStart(4, '0')}`, { state: 'Queued', created_at: '2026-01-01T12:00:00Z' }),
  );
  gateway.api.emit({ type: 'reset', sessions, pools: [] });
  await openDashboard(page, gateway);
  await expect(row(page, 's-0000')).toBeVisible();
  expect(await rows(page).count()).toBeLessThan(80);
  // Only changed rows render; otherwise a busy fleet would keep the page busy.
  const drawn = await page.evaluate(() => {
    const seen: string[] = [];
    const grid = document.querySelector('[role="grid"]') as Element;
    new MutationObserver((changes) => {
      for (const { target } of changes) {
        const element = target instanceof Element ? target : target.parentElement;
        seen.push(element?.closest('[role="row"]')?.getAttribute('data-key') ?? 'the table');
      }
    }).observe(grid, { subtree: true, childList: true, characterData: true, attributes: true });
    Object.assign(window, { drawn: seen });
    return seen.length;
  });
  expect(drawn).toBe(0);
  for (let n = 999; n >= 3; n -= 4) {
    const id = `s-${String(n).padStart(4, '0')}`;
    const session = testSession(id, {
      state: 'Queued',
      created_at: '2026-01-01T12:00:00Z',
      labels: { changed: String(n) },
    });
    gateway.api.emit({ type: 'session', session });
  }
  await expect(row(page, 's-0003')).toContainText('changed=3');
  const others = await page.evaluate(() =>
    (window as unknown as { drawn: string[] }).drawn.filter((key) => Number(key.slice(2)) % 4 !== 3),
  );
  expect(others).toEqual([]);
  await row(page, 's-0000').focus();
  await page.keyboard.press('End');
  await expect(row(page, 's-0999')).toBeInViewport();
  await typeInto(page.getByRole('searchbox'), '0500');
  await expect(rows(page)).toHaveCount(1);
});

test('has no accessibility violations in either theme', { tag: '@once' }, async ({ page, gateway }) => {
  await page.setViewportSize({ width: 1360, height: 800 });
  await page.goto(gateway.dashboard());
  await expect(page.getByLabel('Token')).toBeVisible();
  expect(await accessibilityViolations(page, 'login')).toEqual([]);
  await openDashboard(page, gateway);
  await expect(page.getByText('There are no sessions')).toBeVisible();
  expect(await accessibilityViolations(page, 'no-sessions')).toEqual([]);
  seed(gateway);
  await expect(rows(page)).toHaveCount(5);
  expect(await accessibilityViolations(page, 'sessions')).toEqual([]);
  await page.getByRole('tab', { name: 'Pools' }).click();
  await expect(page.getByRole('article')).toHaveCount(2);
  expect(await accessibilityViolations(page, 'pools')).toEqual([]);
});
