/** One WebSocket with noVNC on it: the picture of a session, and, with control, its keyboard, mouse and clipboard. */

import type RFB from '@novnc/novnc';
import type { ConnectionEvent, Scope } from './connection.ts';
import { grantedScope, offeredSubprotocols } from './vnc-endpoint.ts';

export interface RfbConnectionOptions {
  /** The element that the picture is added to. */
  readonly host: HTMLElement;
  readonly url: URL;
  readonly token: string | null;
  readonly scope: Scope;
  /** Whether the picture takes the focus from any element, because the user has just requested control. */
  readonly takeFocus: boolean;
  /** The name of the picture for screen readers. */
  readonly name: string;
  readonly onEvent: (event: ConnectionEvent) => void;
  /** The user pressed the keys that release the keyboard. */
  readonly onKeyboardRelease: () => void;
}

/** The gateway lets a call wait for a session that starts for up to 60 s. */
const CONNECT_TIMEOUT_MS = 75_000;
/** How long a hung-up socket may keep the next call waiting: a dead network never confirms the close. */
const CLOSE_TIMEOUT_MS = 1_000;

export class RfbConnection {
  readonly #options: RfbConnectionOptions;
  readonly #closing = new AbortController();
  #socket: WebSocket | null = null;
  #rfb: RFB | null = null;
  #connectedAt: number | null = null;

  /** `previousClosed`: resolves when the socket before this one is closed. */
  constructor(options: RfbConnectionOptions, previousClosed: Promise<void>) {
    this.#options = options;
    void this.#open(previousClosed);
  }

  /** Ends the connection, whatever it is at, and says no more of it. Resolves when the socket is closed. */
  close(): Promise<void> {
    this.#closing.abort();
    const socket = this.#socket;
    if (socket === null || socket.readyState === WebSocket.CLOSED) return Promise.resolve();
    const closed = new Promise<void>((resolve) => {
      socket.addEventListener('close', () => resolve());
      setTimeout(resolve, CLOSE_TIMEOUT_MS);
    });
    if (this.#rfb === null) socket.close();
    else this.#rfb.disconnect();
    return closed;
  }

  async #open(previousClosed: Promise<void>): Promise<void> {
    const { url, scope, token, onEvent } = this.#options;
    // noVNC is there before the socket is: the first message must find it.
    const novnc = await import('@novnc/novnc').catch(() => null);
    await previousClosed;
    const { signal } = this.#closing;
    if (signal.aborted) return;
    if (novnc === null) {
      const text = 'A part of it could not be loaded. Reload it.';
      onEvent({ type: 'client-failed', title: 'The page is not complete', text });
      return;
    }
    let socket: WebSocket;
    try {
      socket = new WebSocket(url.href.replace(/^http/, 'ws'), offeredSubprotocols(scope, token));
    } catch {
      // RFC 6455 allows a subprotocol only the characters of an HTTP token.
      const text = 'It has characters that no token has. Copy the whole link again.';
      onEvent({ type: 'client-failed', title: 'The token is not valid', text });
      return;
    }
    this.#socket = socket;
    const timeout = setTimeout(() => this.#reportClosed(1006, ''), CONNECT_TIMEOUT_MS);
    signal.addEventListener('abort', () => clearTimeout(timeout));
    // Before noVNC's own listener, which takes the picture away.
    socket.addEventListener('close', ({ code, reason }) => this.#reportClosed(code, reason), { signal });
    socket.addEventListener(
      'open',
      () => {
        this.#rfb = this.#attach(novnc.default, socket, () => clearTimeout(timeout));
      },
      { signal },
    );
  }

  #reportClosed(code: number, reason: string): void {
    const connectedMs = this.#connectedAt === null ? 0 : performance.now() - this.#connectedAt;
    this.#options.onEvent({ type: 'closed', code, reason, connectedMs });
  }

  #attach(Client: typeof RFB, socket: WebSocket, onConnected: () => void): RFB {
    const { host, name, takeFocus, onEvent, onKeyboardRelease } = this.#options;
    const granted = grantedScope(socket.protocol);
    const rfb = new Client(host, socket, { shared: true });
    rfb.viewOnly = granted === 'view';
    rfb.scaleViewport = true;
    rfb.resizeSession = false;
    rfb.background = 'transparent';
    const canvas = host.querySelector('canvas');
    canvas?.setAttribute('role', granted === 'view' ? 'img' : 'application');
    canvas?.setAttribute('aria-label', name);
    rfb.addEventListener('connect', () => {
      onConnected();
      this.#connectedAt = performance.now();
      if (canvas !== null && granted === 'control') {
        canvas.tabIndex = 0;
        releaseKeyboard(canvas, onKeyboardRelease);
        shareClipboard(rfb, canvas, this.#closing.signal);
        // The focus that went with the picture before this one comes back; one that is elsewhere by now stays there.
        if (takeFocus || document.activeElement === document.body) rfb.focus({ preventScroll: true });
      }
      onEvent({ type: 'connected', granted });
    });
    return rfb;
  }
}

/** All keys go to the session, Tab too. So there is one way out: Ctrl+Alt+Home, as in other remote desktops. */
function releaseKeyboard(canvas: HTMLCanvasElement, onKeyboardRelease: () => void): void {
  interceptKeys(canvas, (event) => {
    if (!(event.ctrlKey && event.altKey && event.key === 'Home')) return false;
    event.preventDefault();
    canvas.blur();
    onKeyboardRelease();
    return true;
  });
  // noVNC lets go of the keys that are down only when the whole window loses the focus.
  canvas.addEventListener('blur', () => window.dispatchEvent(new FocusEvent('blur')));
}

/**
 * Copying in the session sets this machine's clipboard, and Ctrl+V pastes from it. By the browser's own paste event,
 * which needs no permission. (Not on macOS, where Ctrl+V is no paste.)
 */
function shareClipboard(rfb: RFB, canvas: HTMLCanvasElement, signal: AbortSignal): void {
  rfb.addEventListener('clipboard', ({ detail }) => {
    // Refused where the page is not secure or not in front: then there is nothing to be done.
    if (document.activeElement === canvas) navigator.clipboard?.writeText(detail.text).catch(() => undefined);
  });
  if (navigator.userAgent.includes('Mac OS X')) return;
  // Not given to noVNC, which would prevent the paste event.
  interceptKeys(canvas, (event) => event.ctrlKey && !event.altKey && !event.shiftKey && event.code === 'KeyV');
  const paste = (event: ClipboardEvent) => {
    if (document.activeElement !== canvas) return;
    event.preventDefault();
    rfb.clipboardPasteFrom(event.clipboardData?.getData('text/plain') ?? '');
    rfb.sendKey(0x76, 'KeyV');
  };
  // On the document: Firefox has it happen where the selection is, not the focus.
  document.addEventListener('paste', paste, { signal });
}

/** Keeps from noVNC the keys that `handle` takes. noVNC listens on the canvas itself, after this listener. */
function interceptKeys(canvas: HTMLCanvasElement, handle: (event: KeyboardEvent) => boolean): void {
  canvas.parentElement?.addEventListener(
    'keydown',
    (event) => {
      if (handle(event)) event.stopPropagation();
    },
    { capture: true },
  );
}
