/** The part of noVNC 1.7 that is used here. */
declare module '@novnc/novnc' {
  interface Events {
    connect: CustomEvent<object>;
    clipboard: CustomEvent<{ text: string }>;
  }

  export default class RFB {
    /** Attaches to `channel`, which may be open already but must not have had a message yet. */
    constructor(target: HTMLElement, channel: WebSocket, options?: { shared?: boolean });
    viewOnly: boolean;
    scaleViewport: boolean;
    resizeSession: boolean;
    background: string;
    addEventListener<K extends keyof Events>(type: K, listener: (event: Events[K]) => void): void;
    clipboardPasteFrom(text: string): void;
    sendKey(keysym: number, code: string): void;
    focus(options?: FocusOptions): void;
    disconnect(): void;
  }
}
