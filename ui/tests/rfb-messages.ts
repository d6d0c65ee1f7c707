/** Parses the RFB messages of a client: RFC 6143, section 7.5, and the extensions that noVNC uses. */

export interface Message {
  readonly type: number;
  readonly bytes: Buffer;
}

export const keyOrPointer = new Set([4, 5, 255]);

/** The messages after the handshake, which has 12 bytes of version, one of the security type and one of ClientInit. */
export function messages(received: readonly Buffer[]): Message[] {
  let rest = Buffer.concat(received).subarray(14);
  const found: Message[] = [];
  while (rest.length > 0) {
    const type = rest.readUInt8(0);
    const length = lengthOf(type, rest);
    found.push({ type, bytes: rest.subarray(0, length) });
    rest = rest.subarray(length);
  }
  return found;
}

/** Whether a ClientCutText carries no text but the client's capabilities (extended clipboard, flag "caps"). */
export function isClipboardCapabilities({ type, bytes }: Message): boolean {
  return type === 6 && bytes.readInt32BE(4) < 0 && (bytes.readUInt32BE(8) & (1 << 24)) !== 0;
}

function lengthOf(type: number, bytes: Buffer): number {
  switch (type) {
    case 0: // SetPixelFormat
      return 20;
    case 2: // SetEncodings
      return 4 + 4 * bytes.readUInt16BE(2);
    case 3: // FramebufferUpdateRequest
      return 10;
    case 4: // KeyEvent
      return 8;
    case 5: // PointerEvent
      return 6;
    case 6: // ClientCutText; a negative length marks the extended clipboard
      return 8 + Math.abs(bytes.readInt32BE(4));
    case 150: // EnableContinuousUpdates
      return 10;
    case 248: // ClientFence
      return 9 + bytes.readUInt8(8);
    case 255: // QEMU extended key event
      return 12;
    default:
      throw new Error(`unexpected message of type ${type}`);
  }
}
