import AxeBuilder from '@axe-core/playwright';
import { test as base, expect, type Locator, type Page } from '@playwright/test';
import { Display } from './display.ts';
import { Gateway } from './fake-gateway.ts';

interface Fixtures {
  gateway: Gateway;
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
    display.forget();
    display.draw(4);
    const gateway = await Gateway.start(display.rfbSocket);
    await use(gateway);
    if (testInfo.status !== testInfo.expectedStatus) console.error(`${gateway}`);
    await gateway.stop();
  },

  /** No page may break its Content-Security-Policy or throw. */
  page: async ({ page }, use) => {
    const faults: string[] = [];
    await page.exposeFunction('reportFault', (what: string) => faults.push(what));
    await page.addInitScript(() => {
      // Not by Playwright's `pageerror`: over BiDi, that is also what the browser itself writes on the console.
      const { reportFault } = window as unknown as { reportFault: (what: string) => void };
      window.addEventListener('error', ({ message }) => reportFault(message));
      window.addEventListener('unhandledrejection', ({ reason }) => reportFault(`unhandled: ${reason}`));
      document.addEventListener('securitypolicyviolation', (event) => {
        reportFault(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
      });
    });
    await use(page);
    expect(faults).toEqual([]);
  },
});

export { expect };

/** The colour of a pixel of the picture, in the display's own coordinates. */
export function pixel(picture: Locator, x: number, y: number): Promise<number[]> {
  return picture.evaluate(
    (canvas: HTMLCanvasElement, [x, y]) =>
      [...(canvas.getContext('2d')?.getImageData(x, y, 1, 1).data ?? [])].slice(0, 3),
    [x, y] as const,
  );
}

/** What axe finds wrong, in the light theme and, of the colours, in the dark one; and a picture of each. */
export async function faultsOf(page: Page, name: string): Promise<string[]> {
  await page.emulateMedia({ colorScheme: 'light' });
  const { violations } = await new AxeBuilder({ page }).analyze();
  await shot(page, `light-${name}`);
  await page.emulateMedia({ colorScheme: 'dark' });
  const dark = await new AxeBuilder({ page }).withRules('color-contrast').analyze();
  await shot(page, `dark-${name}`);
  return [...violations, ...dark.violations].map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`,
  );
}

/**
 * A picture of the page for people, in `test-results/`. Not in Firefox: there Playwright adds a style for it, which the page's
 * Content-Security-Policy rightly forbids.
 */
export async function shot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `test-results/${name}.png` });
}
