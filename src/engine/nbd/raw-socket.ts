/**
 * The only file that touches what Node keeps semi-private in a socket. Everything here has a public fallback.
 *
 * Role: (1) read a connection straight into a buffer of ours, which Node offers for client sockets only (`onread`);
 * (2) the descriptor of a socket, so that a batch of replies is one `write` without a stream in between.
 * Invariant: a descriptor is asked for anew before each use and never kept: after the socket is closed its number may
 * belong to a file.
 */
import { Socket, type SocketConstructorOpts } from "node:net";

interface RawHandle {
  readonly fd?: unknown;
  readonly useUserBuffer?: unknown;
}

interface RawSocket {
  _handle: RawHandle | null | undefined;
}

/** Where the bytes of a directly read socket go. */
export interface DirectReader {
  /** Buffer for the next read; asked for once in the beginning and after each `received`. */
  nextBuffer(): Uint8Array;
  /** The read put this many bytes at the start of the last buffer. */
  received(lengthBytes: number): void;
}

/**
 * Takes over the connection of an accepted, still paused socket. Returns the socket to use from now on, which reads
 * into the reader's buffers, or undefined when this Node has no such way; then `accepted` is as it was.
 */
export function readDirectly(accepted: Socket, reader: DirectReader): Socket | undefined {
  const raw = accepted as unknown as RawSocket;
  const handle = raw._handle;
  if (!handle || typeof handle.useUserBuffer !== "function") return undefined;
  const options = {
    handle,
    allowHalfOpen: true,
    onread: {
      buffer: () => reader.nextBuffer(),
      callback: (lengthBytes: number) => {
        reader.received(lengthBytes);
        return true;
      },
    },
  };
  // `buffer` may be a function (documented), `handle` is what Node's own server passes; neither is in the types.
  const socket = new Socket(options as unknown as SocketConstructorOpts);
  raw._handle = null;
  accepted.destroy();
  return socket;
}

/** The open descriptor of a socket, or -1 when it is closed or hidden. Use it at once; never keep it. */
export function descriptorOf(socket: Socket): number {
  const fd = (socket as unknown as RawSocket)._handle?.fd;
  return typeof fd === "number" ? fd : -1;
}
