import AxeBuilder from '@axe-core/playwright';
import { test as base, expect, type Locator, type Page } from '@playwright/test';
import { Display } from './display.ts';
import { FakeGateway } from './fake-gateway.ts';

interface Fixtures {
  gateway: FakeGateway;
}

interface WorkerFixtures {
  display: Display;
}

export const test = base.extend<Fixtures, WorkerFixtures>({
  display: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright reads what a fixture needs from the pattern.
    async ({}, use) => {
      const display = await Display.start();
      await use(display);
      await display.stop();
    },
    { scope: 'worker' },
  ],

  gateway: async ({ display }, use, testInfo) => {
    display.clearTyped();
    display.draw(4);
    const gateway = await FakeGateway.start(display.rfbSocket);
    await use(gateway);
    if (testInfo.status !== testInfo.expectedStatus) console.error(`${gateway}`);
    await gateway.stop();
  },

  /** Fails a test whose page violates its Content-Security-Policy or throws. */
  page: async ({ page }, use) => {
    const errors: string[] = [];
    await page.exposeFunction('recordPageError', (what: string) => errors.push(what));
    await page.addInitScript(() => {
      // Playwright's `pageerror` is not usable: over BiDi it also reports messages that the browser itself logs.
      const { recordPageError } = window as unknown as { recordPageError: (what: string) => void };
      window.addEventListener('error', ({ message }) => recordPageError(message));
      window.addEventListener('unhandledrejection', ({ reason }) => recordPageError(`unhandled: ${reason}`));
      document.addEventListener('securitypolicyviolation', (event) => {
        recordPageError(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
      });
    });
    await use(page);
    expect(errors).toEqual([]);
  },
});

export { expect };

/** The colour of a pixel of the picture, in the display's coordinates. */
export function pixel(picture: Locator, x: number, y: number): Promise<number[]> {
  return picture.evaluate(
    (canvas: HTMLCanvasElement, [x, y]) =>
      [...(canvas.getContext('2d')?.getImageData(x, y, 1, 1).data ?? [])].slice(0, 3),
    [x, y] as const,
  );
}

/**
 * The violations that axe finds: all rules in the light theme, contrast in the dark one. Takes a screenshot of each.
 */
export async function accessibilityViolations(page: Page, name: string): Promise<string[]> {
  await page.emulateMedia({ colorScheme: 'light' });
  const { violations } = await new AxeBuilder({ page }).analyze();
  await screenshot(page, `light-${name}`);
  await page.emulateMedia({ colorScheme: 'dark' });
  const dark = await new AxeBuilder({ page }).withRules('color-contrast').analyze();
  await screenshot(page, `dark-${name}`);
  return [...violations, ...dark.violations].map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`,
  );
}

/**
 * Saves a screenshot in `test-results/` for people to look at. Only for Chromium: in Firefox Playwright adds a style
 * for it, which the Content-Security-Policy of the page forbids.
 */
export async function screenshot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `test-results/${name}.png` });
}
