/** Types for the part of noVNC 1.7 that the live view uses. */
declare module '@novnc/novnc' {
  interface Events {
    connect: CustomEvent<object>;
    clipboard: CustomEvent<{ text: string }>;
  }

  export default class RFB {
    /** `channel`: may be open already, but must not have received a message. */
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
