/**
 * Bytes in and out of one client connection.
 *
 * Role: receive into one static inbox (or straight into the buffer of a large payload), send reply batches with one
 * write each. Knows nothing of the protocol.
 * Invariants:
 *   1. Unparsed bytes are `inbox[readStart, readEnd)`; they move only in `nextBuffer`, that is after the user's
 *      `onInput` has returned, so views of the inbox are good until then.
 *   2. Output keeps its order: the direct write is used only while nothing waits in the stream.
 *   3. A buffer given to `sendBuffer` and a full arena are not touched until they are sent or the connection is closed.
 */
import { writeSync } from "node:fs";
import type { Socket } from "node:net";
import { assert } from "../../base/assert.ts";
import type { BufferPool } from "./buffer-pool.ts";
import { descriptorOf, readDirectly } from "./raw-socket.ts";
import type { ReplyArena } from "./reply-arena.ts";
import { INBOX_BYTES, OUTPUT_QUEUE_BYTES_MAX, SOCKET_READ_BYTES_MAX } from "./tuning.ts";
import { ViewCache } from "./view-cache.ts";

export interface ChannelUser {
  /** New bytes are in the inbox or in the payload buffer. */
  onInput(): void;
  /** Output fell below its limit again. */
  onWritable(): void;
  /** The client will send nothing more. */
  onPeerEnd(): void;
  /** The connection is gone; called once. */
  onClosed(): void;
}

/** `direct`: as fast as Node lets us; `stream`: the public stream interface only. */
export type Transport = "direct" | "stream";

export class Channel {
  readonly inbox: Buffer = Buffer.allocUnsafeSlow(INBOX_BYTES);
  readonly inboxView: DataView = new DataView(this.inbox.buffer, this.inbox.byteOffset, this.inbox.length);
  readonly inboxViews: ViewCache = new ViewCache(this.inbox);
  readStart = 0;
  readEnd = 0;

  readonly #socket: Socket;
  readonly #pool: BufferPool;
  readonly #transport: Transport;
  #user: ChannelUser | undefined;
  #arena: ReplyArena;
  #queuedBytes = 0;
  #movedBytes = 0;
  #closed = false;
  #finishing = false;
  #sendScheduled = false;
  #writableWaiters: (() => void)[] = [];

  /** View for a read into the empty inbox: the usual case needs no new one. */
  readonly #wholeView = this.inbox.subarray(0, SOCKET_READ_BYTES_MAX);
  #readsPayload = false;
  #payload: Buffer | undefined;
  #payloadFilled = 0;
  #payloadLength = 0;

  /** `accepted` comes paused from the listener. */
  constructor(accepted: Socket, pool: BufferPool, transport: Transport) {
    this.#pool = pool;
    this.#transport = transport;
    this.#arena = pool.takeArena();
    const direct = transport === "direct" ? readDirectly(accepted, this) : undefined;
    const socket = direct ?? accepted;
    this.#socket = socket;
    socket.setNoDelay(true);
    // An error is always followed by "close", which is where it is dealt with.
    socket.on("error", () => {});
    socket.on("close", () => this.#close());
    socket.on("end", () => this.#user?.onPeerEnd());
    if (direct === undefined) {
      socket.on("data", (chunk: Buffer) => this.#deliver(chunk));
      socket.resume();
    }
  }

  /** Who gets the bytes; may be replaced when the connection enters its next phase. */
  setUser(user: ChannelUser): void {
    this.#user = user;
  }

  get closed(): boolean {
    return this.#closed || this.#socket.destroyed;
  }

  /** Replies that the client has not taken. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Bytes received, and bytes of queued replies taken. */
  get movedBytes(): number {
    return this.#movedBytes;
  }

  get outputBlocked(): boolean {
    return this.#queuedBytes > OUTPUT_QUEUE_BYTES_MAX;
  }

  get unreadBytes(): number {
    return this.readEnd - this.readStart;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    if (!this.closed) this.#socket.resume();
  }

  // --- input

  /** From now on bytes go to `buffer` until `lengthBytes` of them have arrived; what the inbox has is moved there. */
  beginPayload(buffer: Buffer, lengthBytes: number): void {
    assert(this.#payload === undefined, "one payload at a time");
    assert(lengthBytes <= buffer.length, "payload buffer is large enough");
    this.#payload = buffer;
    this.#payloadFilled = 0;
    this.#payloadLength = lengthBytes;
  }

  /** The payload buffer once it is complete, else undefined. */
  takePayload(): Buffer | undefined {
    const payload = this.#payload;
    if (payload === undefined) return undefined;
    const moved = Math.min(this.#payloadLength - this.#payloadFilled, this.unreadBytes);
    if (moved > 0) {
      this.inbox.copy(payload, this.#payloadFilled, this.readStart, this.readStart + moved);
      this.readStart += moved;
      this.#payloadFilled += moved;
    }
    if (this.#payloadFilled < this.#payloadLength) return undefined;
    this.#payload = undefined;
    return payload;
  }

  nextBuffer(): Uint8Array {
    const payload = this.#payload;
    if (this.readStart === this.readEnd) {
      this.readStart = 0;
      this.readEnd = 0;
      this.inboxViews.restart();
      this.#readsPayload = payload !== undefined;
      if (payload !== undefined) return payload.subarray(this.#payloadFilled, this.#payloadLength);
      return this.#wholeView;
    }
    this.#readsPayload = false;
    if (INBOX_BYTES - this.readEnd < SOCKET_READ_BYTES_MAX) {
      this.inbox.copyWithin(0, this.readStart, this.readEnd);
      this.readEnd -= this.readStart;
      this.readStart = 0;
      this.inboxViews.restart();
    }
    assert(this.readEnd < INBOX_BYTES, "the inbox has room for a read");
    return this.inbox.subarray(this.readEnd, Math.min(this.readEnd + SOCKET_READ_BYTES_MAX, INBOX_BYTES));
  }

  received(lengthBytes: number): void {
    this.#movedBytes += lengthBytes;
    if (this.#readsPayload) this.#payloadFilled += lengthBytes;
    else this.readEnd += lengthBytes;
    this.#user?.onInput();
  }

  /** Public stream path: the same as a direct read, by copy. */
  #deliver(chunk: Buffer): void {
    let from = 0;
    while (from < chunk.length && !this.closed) {
      const target = this.nextBuffer();
      const length = Math.min(target.length, chunk.length - from);
      target.set(chunk.subarray(from, from + length));
      from += length;
      this.received(length);
    }
  }

  // --- output

  /** The arena, with room for a reply of `lengthBytes`. Fill it and advance its `end` without awaiting in between. */
  reserve(lengthBytes: number): ReplyArena {
    if (!this.#arena.fits(lengthBytes)) this.send();
    return this.#arena;
  }

  /** Sends what the arena holds. */
  send(): void {
    const arena = this.#arena;
    const length = arena.end;
    if (length === 0) return;
    const sent = this.#sendNow(arena.bytes, length);
    if (sent === length) {
      arena.clear();
      return;
    }
    this.#arena = this.#pool.takeArena();
    this.#queue(arena.bytes.subarray(sent, length), () => this.#pool.giveArena(arena));
  }

  /** Sends the arena once the events at hand have been worked off: many completions, one write. */
  scheduleSend(): void {
    if (this.#sendScheduled || this.#arena.end === 0) return;
    this.#sendScheduled = true;
    setImmediate(() => {
      this.#sendScheduled = false;
      this.send();
    });
  }

  /** Sends `buffer[0, lengthBytes)` behind everything before it; `sent` is called when the buffer may be reused. */
  sendBuffer(buffer: Buffer, lengthBytes: number, sent: () => void): void {
    this.send();
    const now = this.#sendNow(buffer, lengthBytes);
    if (now === lengthBytes) sent();
    else this.#queue(buffer.subarray(now, lengthBytes), sent);
  }

  /** Resolves when output is below its limit, or the connection closed. */
  writable(): Promise<void> {
    if (this.closed || !this.outputBlocked) return Promise.resolve();
    return new Promise((resolve) => this.#writableWaiters.push(resolve));
  }

  /** Closes after everything has been sent. */
  finish(): void {
    if (this.#finishing || this.#closed) return;
    this.send();
    this.#finishing = true;
    this.#socket.destroySoon();
  }

  /** Closes at once. */
  abort(): void {
    this.#socket.destroy();
  }

  /** Writes directly if order allows it; returns how much of it the kernel took (a closed connection takes all). */
  #sendNow(bytes: Buffer, length: number): number {
    if (this.closed) return length;
    if (this.#queuedBytes > 0 || this.#transport === "stream") return 0;
    const fd = descriptorOf(this.#socket);
    if (fd < 0) return 0;
    try {
      return writeSync(fd, bytes, 0, length);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") return 0;
      this.#socket.destroy();
      return length;
    }
  }

  #queue(bytes: Buffer, sent: () => void): void {
    this.#queuedBytes += bytes.length;
    this.#socket.write(bytes, () => {
      const wasBlocked = this.outputBlocked;
      this.#queuedBytes -= bytes.length;
      this.#movedBytes += bytes.length;
      sent();
      if (wasBlocked && !this.outputBlocked) this.#becameWritable();
    });
  }

  #becameWritable(): void {
    this.#releaseWaiters();
    this.#user?.onWritable();
  }

  #releaseWaiters(): void {
    const waiters = this.#writableWaiters;
    this.#writableWaiters = [];
    for (const resolve of waiters) resolve();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#payload !== undefined) {
      this.#pool.give(this.#payload);
      this.#payload = undefined;
    }
    this.#releaseWaiters();
    this.#user?.onClosed();
  }
}
