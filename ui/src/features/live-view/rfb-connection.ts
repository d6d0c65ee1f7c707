/**
 * One RFB connection over a WebSocket, with noVNC as its client. Shows the picture of a session and, with the scope
 * `control`, forwards keyboard, mouse and clipboard.
 */

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

/** The gateway holds a handshake for up to 60 s while the session starts. */
const CONNECT_TIMEOUT_MS = 75_000;
/** How long a closing socket delays the next connection. A broken network never confirms the close. */
const CLOSE_TIMEOUT_MS = 1_000;

export class RfbConnection {
  readonly #options: RfbConnectionOptions;
  readonly #closing = new AbortController();
  #socket: WebSocket | null = null;
  #rfb: RFB | null = null;
  #connectedAt: number | null = null;

  /** `previousClosed`: resolves when the previous socket is closed. The connection opens after that. */
  constructor(options: RfbConnectionOptions, previousClosed: Promise<void>) {
    this.#options = options;
    void this.#open(previousClosed);
  }

  /** Closes the connection in any state. It emits no more events. Resolves when the socket is closed. */
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
    // Loaded before the socket opens, because noVNC must receive the first message.
    const novnc = await import('@novnc/novnc').catch(() => null);
    await previousClosed;
    const { signal } = this.#closing;
    if (signal.aborted) return;
    if (novnc === null) {
      const text = 'A script could not be loaded. Reload the page.';
      onEvent({ type: 'client-failed', title: 'The page is incomplete', text });
      return;
    }
    let socket: WebSocket;
    try {
      socket = new WebSocket(url.href.replace(/^http/, 'ws'), offeredSubprotocols(scope, token));
    } catch {
      // RFC 6455 permits only the characters of an HTTP token in a subprotocol.
      const text = 'It contains invalid characters. Copy the whole link again.';
      onEvent({ type: 'client-failed', title: 'The token is not valid', text });
      return;
    }
    this.#socket = socket;
    const timeout = setTimeout(() => this.#reportClosed(1006, ''), CONNECT_TIMEOUT_MS);
    signal.addEventListener('abort', () => clearTimeout(timeout));
    // Registered before noVNC's own listener, which removes the picture.
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
        // Restores the focus that was lost with the previous picture, unless another element has it now.
        if (takeFocus || document.activeElement === document.body) rfb.focus({ preventScroll: true });
      }
      onEvent({ type: 'connected', granted });
    });
    return rfb;
  }
}

/** Releases the keyboard on Ctrl+Alt+Home, as other remote desktops do. All other keys go to the session, Tab too. */
function releaseKeyboard(canvas: HTMLCanvasElement, onKeyboardRelease: () => void): void {
  interceptKeys(canvas, (event) => {
    if (!(event.ctrlKey && event.altKey && event.key === 'Home')) return false;
    event.preventDefault();
    canvas.blur();
    onKeyboardRelease();
    return true;
  });
  // noVNC releases the pressed keys only when the window loses the focus.
  canvas.addEventListener('blur', () => window.dispatchEvent(new FocusEvent('blur')));
}

/**
 * Connects the clipboard of the session to that of this machine: text copied in the session is copied here, and
 * Ctrl+V pastes from here. Uses the browser's paste event, which needs no permission. On macOS Ctrl+V does not paste,
 * so only copying works.
 */
function shareClipboard(rfb: RFB, canvas: HTMLCanvasElement, signal: AbortSignal): void {
  rfb.addEventListener('clipboard', ({ detail }) => {
    // The browser rejects this for a page that is not secure or not in front; the text is then not copied.
    if (document.activeElement === canvas) navigator.clipboard?.writeText(detail.text).catch(() => undefined);
  });
  if (navigator.userAgent.includes('Mac OS X')) return;
  // Kept from noVNC, which would prevent the paste event.
  interceptKeys(canvas, (event) => event.ctrlKey && !event.altKey && !event.shiftKey && event.code === 'KeyV');
  const paste = (event: ClipboardEvent) => {
    if (document.activeElement !== canvas) return;
    event.preventDefault();
    rfb.clipboardPasteFrom(event.clipboardData?.getData('text/plain') ?? '');
    rfb.sendKey(0x76, 'KeyV');
  };
  // On the document, because Firefox sends the event to the element with the selection, not the one with the focus.
  document.addEventListener('paste', paste, { signal });
}

/** Keeps the keys that `handle` takes from noVNC. Its listener is on the canvas and runs after this capturing one. */
function interceptKeys(canvas: HTMLCanvasElement, handle: (event: KeyboardEvent) => boolean): void {
  canvas.parentElement?.addEventListener(
    'keydown',
    (event) => {
      if (handle(event)) event.stopPropagation();
    },
    { capture: true },
  );
}
