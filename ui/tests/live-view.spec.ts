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

test('the picture shows what the display shows, and goes with it', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  await expect(notice(page)).toHaveText('You are watching');
  await expect(picture(page)).toHaveRole('img');
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await expect.poll(() => pixel(picture(page), 300, 400)).toEqual(background);
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
});

test('the picture fits its place, whole and not distorted', async ({ page, gateway }) => {
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

test('the page asks for no more than a view, and sends neither keys nor mouse nor clipboard', async ({
  page,
  gateway,
  display,
}) => {
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

test('with control, keys and mouse arrive at the display; given back, they do not', async ({
  page,
  gateway,
  display,
}) => {
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
  // A press and a release of the first button (xterm, "SGR mouse mode").
  await expect.poll(() => display.typed()).toMatch(/^.\[<0;\d+;\d+M.\[<0;\d+;\d+m$/);
  await stopControlling(page).click();
  await expect(notice(page)).toHaveText('You are watching');
  expect(gateway.lastConnection.offeredSubprotocols).not.toContain('camofleet.control');
  expect(gateway.connections.filter(({ socket }) => socket.readyState === socket.OPEN)).toHaveLength(1);
  display.clearTyped();
  await picture(page).click();
  await page.keyboard.type('x');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  expect(display.typed()).toBe('');
});

test('?control=1 asks for control at once', async ({ page, gateway }) => {
  await page.goto(gateway.view('?control=1'));
  await expect(stopControlling(page)).toBeVisible();
  expect(gateway.connections).toHaveLength(1);
});

test('control that the gateway does not grant cannot be asked for again, and the page says why', {
  tag: '@once',
}, async ({ page, gateway }) => {
  gateway.maxScope = 'view';
  await page.goto(gateway.view());
  await takeControl(page).click();
  await expect(takeControl(page)).toHaveAttribute('aria-disabled', 'true');
  await expect(takeControl(page)).toHaveAccessibleDescription('Your token allows only to watch.');
  await expect(page.getByText('Your token allows only to watch.')).toBeVisible();
  await expect(notice(page)).toHaveText('You are watching');
  const calls = gateway.connections.length;
  await takeControl(page).click({ force: true });
  await expect(notice(page)).toHaveText('You are watching');
  expect(gateway.connections).toHaveLength(calls);
});

test('the keyboard alone takes control, types, and leaves with no key stuck', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  await expect(notice(page)).toHaveText('You are watching');
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
  await expect.poll(() => downAtTheEnd(keys().map(({ bytes }) => bytes))).toEqual([]);
});

/** Of key events, plain or QEMU's: the keysyms that went down and not up again. */
function downAtTheEnd(events: Buffer[]): number[] {
  const down = new Set<number>();
  for (const event of events) {
    const isDown = event.readUInt8(0) === 4 ? event.readUInt8(1) === 1 : event.readUInt16BE(2) === 1;
    const keysym = event.readUInt32BE(4);
    if (isDown) down.add(keysym);
    else down.delete(keysym);
  }
  return [...down];
}

test.describe('the end', () => {
  test('4410: the session is over, with its reason, for good', async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.lastConnection.socket.close(4410, 'IdleTimeout: 300 s without a client');
    await expect(notice(page)).toHaveText('The session is overIdleTimeout: 300 s without a client');
    await expect(page.getByText('Ended', { exact: true })).toBeVisible();
    await expect(takeControl(page)).toHaveAttribute('aria-disabled', 'true');
    await expect(picture(page)).toBeHidden();
    expect(gateway.connections).toHaveLength(1);
    expect(gateway.probes).toBe(0);
  });

  test('4401: the token is no longer valid; a new link to the same page works', { tag: '@once' }, async ({
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
    await expect(notice(page)).toHaveText('You are watching');
  });

  test('1002: a protocol error is final', { tag: '@once' }, async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.lastConnection.socket.close(1002, 'unknown message 77');
    await expect(notice(page)).toContainText('unknown message 77 (code 1002)');
    expect(gateway.connections).toHaveLength(1);
  });
});

test.describe('coming back', () => {
  for (const code of [1001, 1011]) {
    test(`${code}: the page connects again, in the role that it had`, async ({ page, gateway }) => {
      await page.goto(gateway.view('?control=1'));
      await expect(stopControlling(page)).toBeVisible();
      gateway.lastConnection.socket.close(code);
      await expect.poll(() => gateway.connections.length).toBe(2);
      await expect(stopControlling(page)).toBeVisible();
      await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
      expect(gateway.probes).toBe(0);
    });
  }

  test('while the gateway is away, the last picture stays and the page says what it waits for', async ({
    page,
    gateway,
  }) => {
    await page.goto(gateway.view());
    await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
    const { port } = gateway;
    await gateway.stop();
    await expect(notice(page)).toContainText('The gateway cannot be reached. Next attempt in');
    const still = page.locator('canvas[aria-hidden]');
    await expect.poll(() => pixel(still, 300, 10)).toEqual(stripe);
    await gateway.listen(port);
    await page.getByRole('button', { name: 'Try now' }).click();
    await expect(notice(page)).toHaveText('You are watching');
    await expect(still).toHaveCount(0);
    await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  });

  test('cut without a word: the page asks why, and ends with the answer', async ({ page, gateway }) => {
    await page.goto(gateway.view());
    await expect(picture(page)).toBeVisible();
    gateway.rejection = { status: 410, detail: 'Deleted: by its owner' };
    gateway.lastConnection.socket.terminate();
    await expect(notice(page)).toHaveText('The session is overDeleted: by its owner');
    expect(gateway.probes).toBe(1);
  });
});

test.describe('refused before the WebSocket', () => {
  test('503: starting, with the words of the gateway, until it is ready', async ({ page, gateway }) => {
    gateway.rejection = { status: 503, detail: 'Queued: waits for a free slot', retryAfter: 1 };
    await page.goto(gateway.view());
    await expect(notice(page)).toHaveText('The session is startingQueued: waits for a free slot');
    gateway.rejection = null;
    await expect(notice(page)).toHaveText('You are watching');
  });

  test('a gateway that lets the page wait: starting', { tag: '@once' }, async ({ page, gateway }) => {
    const ready = Promise.withResolvers<void>();
    gateway.delay = ready.promise;
    await page.goto(gateway.view());
    await expect(notice(page)).toContainText('The session is starting');
    ready.resolve();
    await expect(notice(page)).toHaveText('You are watching');
    expect(gateway.connections).toHaveLength(1);
  });

  for (const [status, title] of [
    [403, 'Not allowed'],
    [404, 'No such session'],
    [410, 'The session is over'],
  ] as const) {
    test(`${status} is final`, { tag: '@once' }, async ({ page, gateway }) => {
      gateway.rejection = { status, detail: 'the words of the gateway' };
      await page.goto(gateway.view());
      await expect(notice(page)).toHaveText(`${title}the words of the gateway`);
      expect(gateway.probes).toBe(1);
    });
  }

  test('a wrong token, or one that cannot be one, is final', { tag: '@once' }, async ({ page, gateway }) => {
    await page.goto(gateway.view('', 'wrong'));
    await expect(notice(page)).toContainText('The token is not validthe token is unknown.');
    await page.goto(gateway.view('?again', 'with%20space'));
    await expect(notice(page)).toContainText('The token is not validIt has characters');
  });
});

test('embedded there is only the picture, and the words when there is none', async ({ page, gateway }) => {
  await page.goto(gateway.view('?embed=1'));
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await expect(page.getByRole('banner')).toBeHidden();
  await expect(page.getByRole('button')).toHaveCount(0);
  expect(await page.getByRole('main').boundingBox()).toEqual({ x: 0, y: 0, width: 1000, height: 700 });
  gateway.lastConnection.socket.close(4410, 'Deleted: by its owner');
  await expect(notice(page)).toBeVisible();
  await expect(notice(page)).toHaveText('The session is overDeleted: by its owner');
});

test('a text pasted on this machine is pasted in the session', async ({ page, gateway, display }) => {
  await page.goto(gateway.view());
  // The page's own clipboard, filled as a person would: by copying a selection.
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
  // The terminal takes Ctrl+V as a character, and pastes with Shift+Insert.
  await expect.poll(() => display.typed()).toBe('\x16');
  await page.keyboard.press('Shift+Insert');
  await expect.poll(() => display.typed()).toBe('\x16from här');
});

test('a text copied in the session is on the clipboard of this machine, but only with control', async ({
  page,
  gateway,
  display,
  browserName,
}) => {
  test.skip(browserName === 'firefox', 'over BiDi, a page cannot be let read the clipboard');
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await page.goto(gateway.view());
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(stripe);
  await page.evaluate(() => navigator.clipboard.writeText('mine'));
  display.copy('not for who watches');
  display.draw(0);
  await expect.poll(() => pixel(picture(page), 300, 10)).toEqual(background);
  expect(await clipboard()).toBe('mine');
  await control(page);
  display.copy('from the sessiön');
  await expect.poll(clipboard).toBe('from the sessiön');
});

test('accessible in both themes', { tag: '@once' }, async ({ page, gateway }) => {
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
  await expect(notice(page)).toContainText('The session is over');
  expect(await accessibilityViolations(page, 'ended')).toEqual([]);
});
