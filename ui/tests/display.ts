/**
 * A real display: Xvnc on a unix socket, with one terminal over the whole screen that draws what a test writes to it.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const width = 640;
export const height = 480;
/** The colours that the terminal draws, as [red, green, blue]. */
export const background = [0x20, 0x40, 0x80];
export const stripe = [0xcc, 0x22, 0x22];

const rgb = (colour: number[]) => `#${Buffer.from(colour).toString('hex')}`;

export class Display {
  readonly rfbSocket: string;
  readonly #folder: string;
  readonly #typed: string;
  readonly #processes: ChildProcess[];
  readonly #pipe: number;

  private constructor(folder: string, processes: ChildProcess[], pipe: number) {
    this.#folder = folder;
    this.rfbSocket = join(folder, 'rfb');
    this.#typed = join(folder, 'typed');
    this.#processes = processes;
    this.#pipe = pipe;
  }

  static async start(): Promise<Display> {
    const folder = mkdtempSync(join(tmpdir(), 'live-view-'));
    const server = spawn(
      'Xvnc',
      [
        ...['-displayfd', '3', '-geometry', `${width}x${height}`, '-depth', '24'],
        ...['-rfbport', '-1', '-rfbunixpath', join(folder, 'rfb'), '-SecurityTypes', 'None', '-AlwaysShared'],
        ...['-nolisten', 'tcp', '-UseBlacklist=0', '-AcceptSetDesktopSize=0'],
      ],
      { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] },
    );
    const [number] = await once(server.stdio[3] as NodeJS.ReadableStream, 'data');
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const terminal = spawn(
      'xterm',
      [
        ...['-geometry', '300x150+0+0', '-b', '0', '-bw', '0', '+sb', '-bg', rgb(background), '-fg', rgb(background)],
        ...['-xrm', `*color1: ${rgb(stripe)}`, '-xrm', '*disallowedWindowOps:', '-xrm', '*cursorBlink: false'],
        ...['-e', 'sh', '-c', 'stty raw -echo; cat <"$1/pipe" & exec cat >>"$1/typed"', 'sh', folder],
      ],
      { stdio: 'ignore', env: { ...process.env, DISPLAY: `:${String(number).trim()}` } },
    );
    // Opened for reading too, so that opening does not wait for the terminal.
    const display = new Display(folder, [terminal, server], openSync(pipe, 'r+'));
    for (const process of display.#processes) process.once('error', (error) => console.error(error.message));
    while (!existsSync(display.#typed)) {
      if (terminal.exitCode !== null) throw new Error(`xterm ended with status ${terminal.exitCode}`);
      await sleep(20);
    }
    return display;
  }

  /**
   * Draws the background, with stripes in the first `lines` lines. Turns on mouse reports, which arrive like typed
   * text.
   */
  draw(lines: number): void {
    const stripes = Array.from({ length: lines }, (_, line) => `\x1b[${line + 1};1H\x1b[41m\x1b[2K`);
    this.#write(`\x1bc\x1b[?25l\x1b[?1000h\x1b[?1006h${stripes.join('')}\x1b[0m`);
  }

  /** Copies a text to the clipboard of the display, by an escape sequence of the terminal. */
  copy(text: string): void {
    this.#write(`\x1b]52;c;${Buffer.from(text).toString('base64')}\x07`);
  }

  /** Keys and mouse reports since the last `clearTyped`. */
  typed(): string {
    return readFileSync(this.#typed, 'utf8');
  }

  clearTyped(): void {
    truncateSync(this.#typed);
  }

  async stop(): Promise<void> {
    for (const process of this.#processes) {
      if (process.exitCode !== null || process.signalCode !== null) continue;
      const gone = once(process, 'exit');
      process.kill();
      await gone;
    }
    rmSync(this.#folder, { recursive: true });
  }

  #write(text: string): void {
    writeSync(this.#pipe, text);
  }
}
