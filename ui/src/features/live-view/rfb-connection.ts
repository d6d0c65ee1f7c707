/** One WebSocket with noVNC on it: the picture of a session, and, with control, its keyboard, mouse and clipboard. */

import type RFB from '@novnc/novnc';
import type { Happening, Role } from './connection.ts';
import { granted, offers } from './vnc-endpoint.ts';

export interface Call {
  /** Where the picture goes. */
  readonly host: HTMLElement;
  readonly url: URL;
  readonly token: string | null;
  readonly wanted: Role;
  /** Whether the picture takes the focus wherever that is, since control was just asked for. */
  readonly takesFocus: boolean;
  /** The name of the picture for screen readers. */
  readonly name: string;
  readonly tell: (happening: Happening) => void;
  /** The keys to get out of the picture were pressed. */
  readonly onLeave: () => void;
}

/** The gateway lets a call wait for a session that starts for up to 60 s. */
const LIMIT_MS = 75_000;
/** How long a hung-up socket may keep the next call waiting: a dead network never confirms the close. */
const CLOSING_MS = 1_000;

export class Dialled {
  readonly #call: Call;
  readonly #hungUp = new AbortController();
  #socket: WebSocket | null = null;
  #rfb: RFB | null = null;
  #connectedAt: number | null = null;

  /** `before`: resolves when the socket before this one is closed. */
  constructor(call: Call, before: Promise<void>) {
    this.#call = call;
    void this.#open(before);
  }

  /** Ends the connection, whatever it is at, and says no more of it. Resolves when the socket is closed. */
  hangUp(): Promise<void> {
    this.#hungUp.abort();
    const socket = this.#socket;
    if (socket === null || socket.readyState === WebSocket.CLOSED) return Promise.resolve();
    const closed = new Promise<void>((resolve) => {
      socket.addEventListener('close', () => resolve());
      setTimeout(resolve, CLOSING_MS);
    });
    if (this.#rfb === null) socket.close();
    else this.#rfb.disconnect();
    return closed;
  }

  async #open(before: Promise<void>): Promise<void> {
    const { url, wanted, token, tell } = this.#call;
    // noVNC is there before the socket is: the first message must find it.
    const novnc = await import('@novnc/novnc').catch(() => null);
    await before;
    if (this.#hungUp.signal.aborted) return;
    if (novnc === null) {
      tell({ what: 'broke', title: 'The page is not complete', words: 'A part of it could not be loaded. Reload it.' });
      return;
    }
    let socket: WebSocket;
    try {
      socket = new WebSocket(url.href.replace(/^http/, 'ws'), offers(wanted, token));
    } catch {
      // RFC 6455 allows a subprotocol only the characters of an HTTP token.
      tell({
        what: 'broke',
        title: 'The token is not valid',
        words: 'It has characters that no token has. Copy the whole link again.',
      });
      return;
    }
    this.#socket = socket;
    const limit = setTimeout(() => this.#closed(1006, ''), LIMIT_MS);
    const { signal } = this.#hungUp;
    signal.addEventListener('abort', () => clearTimeout(limit));
    // Before noVNC's own listener, which takes the picture away.
    socket.addEventListener('close', ({ code, reason }) => this.#closed(code, reason), { signal });
    socket.addEventListener(
      'open',
      () => {
        this.#rfb = this.#attach(novnc.default, socket, () => clearTimeout(limit));
      },
      { signal },
    );
  }

  #closed(code: number, reason: string): void {
    const heldMs = this.#connectedAt === null ? 0 : performance.now() - this.#connectedAt;
    this.#call.tell({ what: 'closed', code, reason, heldMs });
  }

  #attach(Client: typeof RFB, socket: WebSocket, onConnected: () => void): RFB {
    const { host, name, takesFocus, tell, onLeave } = this.#call;
    const role = granted(socket.protocol);
    const rfb = new Client(host, socket, { shared: true });
    rfb.viewOnly = role === 'view';
    rfb.scaleViewport = true;
    rfb.resizeSession = false;
    rfb.background = 'transparent';
    const canvas = host.querySelector('canvas');
    canvas?.setAttribute('role', role === 'view' ? 'img' : 'application');
    canvas?.setAttribute('aria-label', name);
    rfb.addEventListener('connect', () => {
      onConnected();
      this.#connectedAt = performance.now();
      if (canvas !== null && role === 'control') {
        canvas.tabIndex = 0;
        passKeyboard(canvas, onLeave);
        passClipboard(rfb, canvas, this.#hungUp.signal);
        // The focus that went with the picture before this one comes back; one that is elsewhere by now stays there.
        if (takesFocus || document.activeElement === document.body) rfb.focus({ preventScroll: true });
      }
      tell({ what: 'connected', granted: role });
    });
    return rfb;
  }
}

/** All keys go to the session, Tab too. So there is one way out: Ctrl+Alt+Home, as in other remote desktops. */
function passKeyboard(canvas: HTMLCanvasElement, onLeave: () => void): void {
  beforeNoVnc(canvas, (event) => {
    if (!(event.ctrlKey && event.altKey && event.key === 'Home')) return false;
    event.preventDefault();
    canvas.blur();
    onLeave();
    return true;
  });
  // noVNC lets go of the keys that are down only when the whole window loses the focus.
  canvas.addEventListener('blur', () => window.dispatchEvent(new FocusEvent('blur')));
}

/**
 * Copying in the session sets this machine's clipboard, and Ctrl+V pastes from it. By the browser's own paste event,
 * which needs no permission. (Not on macOS, where Ctrl+V is no paste.)
 */
function passClipboard(rfb: RFB, canvas: HTMLCanvasElement, until: AbortSignal): void {
  rfb.addEventListener('clipboard', ({ detail }) => {
    // Refused where the page is not secure or not in front: then there is nothing to be done.
    if (document.activeElement === canvas) navigator.clipboard?.writeText(detail.text).catch(() => undefined);
  });
  if (navigator.userAgent.includes('Mac OS X')) return;
  // Not given to noVNC, which would prevent the paste event.
  beforeNoVnc(canvas, (event) => event.ctrlKey && !event.altKey && !event.shiftKey && event.code === 'KeyV');
  const paste = (event: ClipboardEvent) => {
    if (document.activeElement !== canvas) return;
    event.preventDefault();
    rfb.clipboardPasteFrom(event.clipboardData?.getData('text/plain') ?? '');
    rfb.sendKey(0x76, 'KeyV');
  };
  // On the document: Firefox has it happen where the selection is, not the focus.
  document.addEventListener('paste', paste, { signal: until });
}

/** noVNC listens on the canvas itself, so what is caught on the way down never reaches it. */
function beforeNoVnc(canvas: HTMLCanvasElement, takes: (event: KeyboardEvent) => boolean): void {
  canvas.parentElement?.addEventListener(
    'keydown',
    (event) => {
      if (takes(event)) event.stopPropagation();
    },
    { capture: true },
  );
}
