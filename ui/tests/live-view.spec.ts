import type { Page } from '@playwright/test';
import { background, stripe } from './display.ts';
import { token } from './fake-gateway.ts';
import { accessibilityViolations, expect, pixel, test } from './fixtures.ts';
import { isClipboardCapabilities, keyOrPointer, messages } from './rfb-messages.ts';

const picture = (page: Page) => page.getByLabel('Screen of session demo in team-a');
const notice = (page: Page) => page.getByRole('status');
const takeControl = (page: Page) => page.getByRole('button', { name: 'Take control' });
const stopControlling = (page: Page) => page.getByRole('button', { name: 'Stop controlling' });

async function control(page: Page): Promise<void> {
  await takeControl(page).click();
  await expect(stopControlling(page)).toBeVisible();
}

test('the picture follows the display', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  await expect(notice(page)).toHaveText('You are viewing');
  await expect(picture(page)).toHaveRole('img');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await expect.poll(() => pixel(picture(page), 300, 400)).toEqual(background);
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
});

test('the picture fits its area without distortion', async ({ page, gateway }) => {
  await page.goto(gateway.view());
  for (const size of [
    { width: 1000, height: 700 },
    { width: 400, height: 700 },
  ]) {
    await page.setViewportSize(size);
    const place = await page.getByRole('main').boundingBox();
    await expect
      .poll(async () => {
        const box = await picture(page).boundingBox();
        return box && { width: Math.round(box.width), height: Math.round(box.height) };
      })
      .toEqual({
        width: Math.round(Math.min(place?.width ?? 0, (place?.height ?? 0) * (640 / 480))),
        height: Math.round(Math.min(place?.height ?? 0, (place?.width ?? 0) * (480 / 640))),
      });
  }
});

test('a view sends no keys, no mouse events and no clipboard', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  expect(gateway.lastConnection.offeredSubprotocols).toEqual(['camofleet.view', `camofleet.bearer.${token}`]);
  await picture(page).click();
  await page.keyboard.type('x');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  const sent = messages(gateway.lastConnection.received);
  expect(sent.map(({ type }) => type)).toContain(3);
  expect(sent.filter((message) => keyOrPointer.has(message.type))).toEqual([]);
  expect(sent.filter((message) => message.type === 6 && !isClipboardCapabilities(message))).toEqual([]);
  expect(display.typed()).toBe('');
});

test('keys and mouse events reach the display only while the page has control', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  await control(page);
  expect(gateway.lastConnection.offeredSubprotocols).toEqual([
    'camofleet.control',
    'camofleet.view',
    `camofleet.bearer.${token}`,
  ]);
  await expect(picture(page)).toHaveRole('application');
  await expect(picture(page)).toBeFocused();
  await page.keyboard.type('Hello, World!');
  await expect.poll(() => display.typed()).toBe('Hello, World!');
  display.clearTyped();
  const box = await picture(page).boundingBox();
  await picture(page).click({ position: { x: (box?.width ?? 0) / 2, y: (box?.height ?? 0) / 2 } });
  // Press and release of the first button in xterm's SGR mouse mode.
  await expect.poll(() => display.typed()).toMatch(/^.\[<0;\d+;\d+M.\[<0;\d+;\d+m$/);
  await stopControlling(page).click();
  await expect(notice(page)).toHaveText('You are viewing');
  expect(gateway.lastConnection.offeredSubprotocols).not.toContain('camofleet.control');
  expect(gateway.connections.filter(({ socket }) => socket.readyState === socket.OPEN)).toHaveLength(1);
  display.clearTyped();
  await picture(page).click();
  await page.keyboard.type('x');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  expect(display.typed()).toBe('');
});

test('?control=1 requests control at once', async ({ page, gateway }) => {
  await page.goto(gateway.view('?control=1'));
  await expect(stopControlling(page)).toBeVisible();
  expect(gateway.connections).toHaveLength(1);
});

test('control that the gateway denies cannot be requested again, and the page shows why', {
  tag: '@once',
}, async ({ page, gateway }) => {
  gateway.maxScope = 'view';
  await page.goto(gateway.view());
  await takeControl(page).click();
  await expect(takeControl(page)).toHaveAttribute('aria-disabled', 'true');
  await expect(takeControl(page)).toHaveAccessibleDescription('Your token permits viewing only.');
  await expect(page.getByText('Your token permits viewing only.')).toBeVisible();
  await expect(notice(page)).toHaveText('You are viewing');
  const calls = gateway.connections.length;
  await takeControl(page).click({ force: true });
  await expect(notice(page)).toHaveText('You are viewing');
  expect(gateway.connections).toHaveLength(calls);
});

test('a token with the scope view offers no control', { tag: '@once' }, async ({ page, gateway }) => {
  const claims = Buffer.from(JSON.stringify({ role: 'view' })).toString('base64url');
  gateway.token = `header.${claims}.signature`;
  await page.goto(gateway.view('?control=1'));
  await expect(notice(page)).toHaveText('You are viewing');
  await expect(takeControl(page)).toHaveAttribute('aria-disabled', 'true');
  await expect(takeControl(page)).toHaveAccessibleDescription('Your token permits viewing only.');
  await takeControl(page).click({ force: true });
  await expect(notice(page)).toHaveText('You are viewing');
  expect(gateway.connections.map(({ offeredSubprotocols }) => offeredSubprotocols[0])).toEqual(['camofleet.view']);
});

test('the keyboard alone takes control, types and releases all keys', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  await expect(notice(page)).toHaveText('You are viewing');
  await page.keyboard.press('Tab');
  await expect(takeControl(page)).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(picture(page)).toBeFocused();
  await page.keyboard.press('Tab');
  await expect.poll(() => display.typed()).toBe('\t');
  await page.keyboard.press('Control+Alt+Home');
  await expect(stopControlling(page)).toBeFocused();
  const keys = () =>
    messages(gateway.lastConnection.received).filter(({ type }) => keyOrPointer.has(type) && type !== 5);
  await expect.poll(() => pressedKeysyms(keys().map(({ bytes }) => bytes))).toEqual([]);
});

/** The keysyms that are still pressed after the key events, which are plain or QEMU's. */
function pressedKeysyms(events: Buffer[]): number[] {
  const down = new Set<number>();
  for (const event of events) {
    const isDown = event.readUInt8(0) === 4 ? event.readUInt8(1) === 1 : event.readUInt16BE(2) === 1;
    const keysym = event.readUInt32BE(4);
    if (isDown) down.add(keysym);
    else down.delete(keysym);
  }
  return [...down];
}

test.describe('ended by a close code', () => {
  test('4410: shows the reason and does not reconnect', async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.lastConnection.socket.close(4410, 'IdleTimeout: 300 s without a client');
    await expect(notice(page)).toHaveText('The session has endedIdleTimeout: 300 s without a client');
    await expect(page.getByText('Ended', { exact: true })).toBeVisible();
    await expect(takeControl(page)).toHaveAttribute('aria-disabled', 'true');
    await expect(picture(page)).toBeHidden();
    expect(gateway.connections).toHaveLength(1);
    expect(gateway.probes).toBe(0);
  });

  test('4401: shows that the token is not valid, and accepts a new link', { tag: '@once' }, async ({
    page,
    gateway,
  }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.lastConnection.socket.close(4401, 'the token has expired');
    await expect(notice(page)).toContainText('The token is not validthe token has expired. Ask for a new link');
    expect(gateway.connections).toHaveLength(1);
    await page.evaluate((hash) => {
      location.hash = hash;
    }, `token=${token}&new`);
    await expect(notice(page)).toHaveText('You are viewing');
  });

  test('1002: a protocol error is final', { tag: '@once' }, async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.lastConnection.socket.close(1002, 'unknown message 77');
    await expect(notice(page)).toContainText('unknown message 77 (code 1002)');
    expect(gateway.connections).toHaveLength(1);
  });
});

test.describe('reconnecting', () => {
  for (const code of [1001, 1011]) {
    test(`${code}: reconnects with the same scope`, async ({ page, gateway }) => {
      await page.goto(gateway.view('?control=1'));
      await expect(stopControlling(page)).toBeVisible();
      gateway.lastConnection.socket.close(code);
      await expect.poll(() => gateway.connections.length).toBe(2);
      await expect(stopControlling(page)).toBeVisible();
      await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
      expect(gateway.probes).toBe(0);
    });
  }

  test('keeps the last picture while the gateway is unreachable', async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
    const { port } = gateway;
    await gateway.stop();
    await expect(notice(page)).toContainText('The gateway cannot be reached. Next attempt in');
    const frozen = page.locator('canvas[aria-hidden]');
    await expect.poll(() => pixel(frozen, 300, 10)).toEqual(stripe);
    await gateway.listen(port);
    await page.getByRole('button', { name: 'Try now' }).click();
    await expect(notice(page)).toHaveText('You are viewing');
    await expect(frozen).toHaveCount(0);
    await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  });

  test('probes for the reason when the connection breaks without a close code', async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.rejection = { status: 410, detail: 'Deleted: by its owner' };
    gateway.lastConnection.socket.terminate();
    await expect(notice(page)).toHaveText('The session has endedDeleted: by its owner');
    expect(gateway.probes).toBe(1);
  });
});

test.describe('rejected handshake', () => {
  test('503: shows that the session is starting until it is ready', async ({ page, gateway }) => {
    gateway.rejection = { status: 503, detail: 'Queued: waits for a free slot', retryAfter: 1 };
    await page.goto(gateway.view());
    await expect(notice(page)).toHaveText('The session is startingQueued: waits for a free slot');
    gateway.rejection = null;
    await expect(notice(page)).toHaveText('You are viewing');
  });

  test('shows that the session is starting while the gateway holds the handshake', { tag: '@once' }, async ({
    page,
    gateway,
  }) => {
    const ready = Promise.withResolvers<void>();
    gateway.delay = ready.promise;
    await page.goto(gateway.view());
    await expect(notice(page)).toContainText('The session is starting');
    ready.resolve();
    await expect(notice(page)).toHaveText('You are viewing');
    expect(gateway.connections).toHaveLength(1);
  });

  for (const [status, title] of [
    [403, 'Not allowed'],
    [404, 'No such session'],
    [410, 'The session has ended'],
  ] as const) {
    test(`${status} is final`, { tag: '@once' }, async ({ page, gateway }) => {
      gateway.rejection = { status, detail: 'the detail of the gateway' };
      await page.goto(gateway.view());
      await expect(notice(page)).toHaveText(`${title}the detail of the gateway`);
      expect(gateway.probes).toBe(1);
    });
  }

  test('an unknown or malformed token is final', { tag: '@once' }, async ({ page, gateway }) => {
    await page.goto(gateway.view('', 'wrong'));
    await expect(notice(page)).toContainText('The token is not validthe token is unknown.');
    await page.goto(gateway.view('?again', 'with%20space'));
    await expect(notice(page)).toContainText('The token is not validIt contains invalid characters');
  });
});

test('an embedded page has no toolbar, and shows a notice without a picture', async ({ page, gateway }) => {
  await page.goto(gateway.view('?embed=1'));
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await expect(page.getByRole('banner')).toBeHidden();
  await expect(page.getByRole('button')).toHaveCount(0);
  expect(await page.getByRole('main').boundingBox()).toEqual({ x: 0, y: 0, width: 1000, height: 700 });
  gateway.lastConnection.socket.close(4410, 'Deleted: by its owner');
  await expect(notice(page)).toBeVisible();
  await expect(notice(page)).toHaveText('The session has endedDeleted: by its owner');
});

test('text from the clipboard of this machine is pasted into the session', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  // Fills the clipboard as a user would, by copying a selection.
  await page.evaluate(() => {
    const field = document.createElement('textarea');
    field.id = 'source';
    field.value = 'from här';
    document.body.append(field);
    field.select();
  });
  await page.keyboard.press('Control+C');
  await page.evaluate(() => document.getElementById('source')?.remove());
  await control(page);
  await page.keyboard.press('Control+V');
  // The terminal types Ctrl+V as a character. It pastes on Shift+Insert.
  await expect.poll(() => display.typed()).toBe('\x16');
  await page.keyboard.press('Shift+Insert');
  await expect.poll(() => display.typed()).toBe('\x16from här');
});

test('text copied in the session reaches the clipboard of this machine only with control', async ({
  page,
  gateway,
  display,
  browserName,
}) => {
  test.skip(browserName === 'firefox', 'BiDi has no permission for reading the clipboard');
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await page.goto(gateway.view());
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await page.evaluate(() => navigator.clipboard.writeText('mine'));
  display.copy('not for viewers');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  expect(await clipboard()).toBe('mine');
  await control(page);
  display.copy('from the sessiön');
  await expect.poll(clipboard).toBe('from the sessiön');
});

test('has no accessibility violations in either theme', { tag: '@once' }, async ({ page, gateway }) => {
  await page.goto(gateway.view());
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  expect(await accessibilityViolations(page, 'watching')).toEqual([]);

  await control(page);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  expect(await accessibilityViolations(page, 'in-control')).toEqual([]);

  gateway.rejection = { status: 503, detail: 'The gateway is going away' };
  gateway.lastConnection.socket.terminate();
  await expect(page.getByRole('button', { name: 'Try now' })).toBeVisible();
  expect(await accessibilityViolations(page, 'reconnecting')).toEqual([]);

  gateway.rejection = { status: 410, detail: 'IdleTimeout: 300 s without a client' };
  await expect(notice(page)).toContainText('The session has ended');
  expect(await accessibilityViolations(page, 'ended')).toEqual([]);
});
