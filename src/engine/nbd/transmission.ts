/**
 * Transmission phase of one connection: the hot path.
 *
 * Role: parses everything a socket read brought, does at once what the target can do at once, straight between the
 * volume and the connection's buffers, and answers the whole batch with one write. The rest becomes an operation.
 * Invariants:
 *   1. Nothing is allocated for a request that is finished at once.
 *   2. Offsets are doubles: read as two halves, never BigInt; a number that a double cannot hold is beyond any export.
 *   3. A request reaches the target only after its command, flags and range have been checked.
 *   4. Bytes and requests in flight and bytes queued for the client are bounded, for the connection and, of the bytes, for
 *      all together (in-flight-memory.ts); above a bound nothing more is read.
 * Specification: the NBD protocol, "Transmission phase".
 */
import { NBD_IN_FLIGHT_BYTES_MAX, NBD_IN_FLIGHT_REQUESTS_MAX, NBD_REQUEST_BYTES_MAX } from "../../base/limits.ts";
import type { BufferPool } from "./buffer-pool.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import type { Negotiated } from "./handshake.ts";
import type { InFlightMemory, MemoryUser } from "./in-flight-memory.ts";
import type { IoTarget } from "./io-target.ts";
import { Operations, type Request } from "./operations.ts";
import {
  CHUNK_FLAG_DONE,
  COMMAND,
  COMMAND_FLAGS,
  DATA_CHUNK_HEADER_BYTES,
  FLAGS_ALLOWED,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
} from "./protocol.ts";
import { beyondEndOf, REFUSED, type Refusal, Replier } from "./replier.ts";
import { putDataChunkHeader, putSimpleHeader } from "./reply-arena.ts";
import { ReplyHold } from "./reply-hold.ts";
import {
  DISCARD_BYTES_MAX,
  INBOX_PAYLOAD_BYTES_MAX,
  READ_PIECE_BYTES,
  TURN_BYTES_MAX,
  TURN_REQUESTS_MAX,
} from "./tuning.ts";

export class Transmission implements ChannelUser, MemoryUser {
  readonly #channel: Channel;
  readonly #memory: InFlightMemory;
  readonly #target: IoTarget;
  readonly #pool: BufferPool;
  readonly #replier: Replier;
  readonly #operations: Operations;
  readonly #structured: boolean;
  readonly #hold: ReplyHold;
  readonly #hasContexts: boolean;
  /** Called when nothing is in flight and nothing more will be. */
  readonly #onSettled: () => void;

  #inFlightRequests = 0;
  #inFlightBytes = 0;
  #paused = false;
  #yielded = false;
  #turnBytes = 0;
  #peerEnded = false;
  #closed = false;
  /** No further request is taken: the client said goodbye, is gone, or is not wanted any more. */
  #ending = false;

  /** Large write whose payload is arriving. */
  #arriving: Request | undefined;
  /** Refused write whose payload is being thrown away. */
  #discardBytes = 0;
  #discarded: { readonly request: Request; readonly refusal: Refusal } | undefined;

  constructor(
    channel: Channel,
    { pool, memory }: { readonly pool: BufferPool; readonly memory: InFlightMemory },
    negotiated: Negotiated,
    onSettled: () => void,
  ) {
    this.#channel = channel;
    this.#pool = pool;
    this.#memory = memory;
    this.#target = negotiated.target;
    this.#structured = negotiated.structured;
    this.#hasContexts = negotiated.contexts.length > 0;
    this.#replier = new Replier(channel, negotiated.structured);
    const { target, contexts } = negotiated;
    this.#operations = new Operations({ target, channel, pool, replier: this.#replier, contexts });
    this.#onSettled = onSettled;
    this.#hold = new ReplyHold(() => channel.send());
  }

  /** True when no operation of this connection touches the target any more. */
  get idle(): boolean {
    return this.#inFlightRequests === 0;
  }

  get heldBytes(): number {
    return this.#inFlightBytes;
  }

  memoryFreed(): void {
    if (this.#mayContinue()) this.#continue();
    else this.#memory.leave(this); // it asks again when it can go on
  }

  get waitsForClient(): boolean {
    return this.heldBytes > 0 && (this.#arriving !== undefined || this.#channel.queuedBytes > 0);
  }

  onInput(): void {
    this.#run();
  }

  onWritable(): void {
    this.#continue();
  }

  /** What it sent before is still done and answered: it may have closed only its sending side. */
  onPeerEnd(): void {
    this.#peerEnded = true;
    this.#run();
  }

  onClosed(): void {
    this.#closed = true;
    this.#ending = true;
    if (this.#arriving !== undefined) this.#giveBack(this.#arriving.lengthBytes);
    this.#arriving = undefined;
    this.#memory.leave(this);
    if (this.idle) this.#onSettled();
  }

  /** Takes no further request, answers those in flight, then closes the connection. */
  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#memory.leave(this);
    this.#pause();
    // A payload that is not read any more can neither be written nor answered.
    if (this.#arriving !== undefined) this.#channel.abort();
    else if (this.idle) this.#channel.finish();
  }

  // --- parsing

  #run(): void {
    const channel = this.#channel;
    this.#turnBytes = 0;
    let requests = 0;
    let complete = this.#payloadArrived();
    while (complete && !this.#ending && channel.unreadBytes >= REQUEST_BYTES) {
      if (this.#overLimit()) {
        this.#pause();
        break;
      }
      if (requests >= TURN_REQUESTS_MAX || this.#turnBytes > TURN_BYTES_MAX) {
        this.#yield();
        break;
      }
      requests++;
      complete = this.#next() && this.#payloadArrived();
    }
    this.#hold.batchDone(requests);
    if (this.#peerEnded && !this.#paused) this.end();
  }

  /** Takes one request from the inbox; false when not all of it is there yet. */
  #next(): boolean {
    const channel = this.#channel;
    const view = channel.inboxView;
    const at = channel.readStart;
    if (view.getUint32(at) !== REQUEST_MAGIC) {
      // Not the start of a request: there is no way to find the next one.
      channel.send();
      channel.abort();
      return false;
    }
    const flags = view.getUint16(at + 4);
    const command = view.getUint16(at + 6);
    const high = view.getUint32(at + 8);
    const low = view.getUint32(at + 12);
    const offset = view.getUint32(at + 16) * 2 ** 32 + view.getUint32(at + 20);
    const length = view.getUint32(at + 24);
    if (command === COMMAND.WRITE) return this.#write(at, flags, high, low, offset, length);
    channel.readStart = at + REQUEST_BYTES;
    if (command === COMMAND.DISC) {
      this.end();
      return false;
    }
    const refusal = this.#check(command, flags, offset, length);
    if (refusal !== undefined) this.#replier.refused(high, low, refusal);
    else if (command === COMMAND.READ) return this.#read(at, flags, high, low, offset, length);
    else if (length === 0 && command !== COMMAND.FLUSH) this.#replier.done(high, low);
    else this.#start(command, flags, high, low, offset, length, undefined);
    return true;
  }

  /** Memory for a request; without it nothing more is taken from the inbox, which goes back to `at`, its begin. */
  #take(bytes: number, at: number): boolean {
    if (this.#memory.take(this, bytes)) {
      this.#inFlightBytes += bytes;
      return true;
    }
    this.#channel.readStart = at;
    this.#pause();
    return false;
  }

  #giveBack(bytes: number): void {
    this.#inFlightBytes -= bytes;
    this.#memory.give(bytes);
  }

  /** Why this request is refused, or undefined. */
  #check(command: number, flags: number, offset: number, length: number): Refusal | undefined {
    const allowed = FLAGS_ALLOWED[command];
    if (allowed === undefined) return REFUSED.unknownCommand;
    if ((flags & ~allowed) !== 0) return REFUSED.flags;
    if ((flags & COMMAND_FLAGS.DF) !== 0 && !this.#structured) return REFUSED.flags;
    if (command === COMMAND.FLUSH) return offset === 0 && length === 0 ? undefined : REFUSED.flushRange;
    if (this.#target.readOnly && CHANGES[command] === true) return REFUSED.readOnly;
    if (length > NBD_REQUEST_BYTES_MAX && (command === COMMAND.READ || command === COMMAND.WRITE)) {
      return (flags & COMMAND_FLAGS.DF) !== 0 ? REFUSED.tooLongUnfragmented : REFUSED.tooLong;
    }
    if (offset + length > this.#target.sizeBytes) return beyondEndOf(command);
    if (command !== COMMAND.BLOCK_STATUS) return undefined;
    if (!this.#hasContexts) return REFUSED.noContext;
    return length === 0 ? REFUSED.emptyStatus : undefined;
  }

  // --- reads

  /** False when there is no memory for it yet. */
  #read(at: number, flags: number, high: number, low: number, offset: number, length: number): boolean {
    if (length === 0) {
      this.#replier.emptyRead(high, low);
      return true;
    }
    this.#turnBytes += length;
    if (length <= READ_PIECE_BYTES && this.#readNow(high, low, offset, length)) return true;
    const held = this.#operations.heldBytesOfRead(flags, length);
    if (!this.#take(held, at)) return false;
    this.#start(COMMAND.READ, flags, high, low, offset, length, undefined, held);
    return true;
  }

  /** Reads straight behind the reply header; true when the request has been answered. */
  #readNow(high: number, low: number, offset: number, length: number): boolean {
    const headerBytes = this.#structured ? DATA_CHUNK_HEADER_BYTES : SIMPLE_REPLY_BYTES;
    const arena = this.#channel.reserve(headerBytes + length);
    const at = arena.end;
    try {
      if (!this.#target.tryRead(offset, arena.views.take(at + headerBytes, length))) return false;
    } catch (error) {
      this.#replier.failed(high, low, COMMAND.READ, error);
      return true;
    }
    if (this.#structured) putDataChunkHeader(arena.view, at, CHUNK_FLAG_DONE, high, low, offset, length);
    else putSimpleHeader(arena.view, at, high, low, 0);
    arena.end = at + headerBytes + length;
    return true;
  }

  // --- writes

  #write(at: number, flags: number, high: number, low: number, offset: number, length: number): boolean {
    const channel = this.#channel;
    const refusal = this.#check(COMMAND.WRITE, flags, offset, length);
    if (refusal !== undefined) {
      channel.readStart = at + REQUEST_BYTES;
      this.#refuseWrite(
        { command: COMMAND.WRITE, flags, cookieHigh: high, cookieLow: low, offsetBytes: offset, lengthBytes: length },
        refusal,
      );
      return true;
    }
    if (length > INBOX_PAYLOAD_BYTES_MAX) {
      if (!this.#take(length, at)) return false;
      channel.readStart = at + REQUEST_BYTES;
      this.#arriving = {
        command: COMMAND.WRITE,
        flags,
        cookieHigh: high,
        cookieLow: low,
        offsetBytes: offset,
        lengthBytes: length,
      };
      channel.beginPayload(this.#pool.take(length), length);
      return true;
    }
    if (channel.unreadBytes < REQUEST_BYTES + length) return false;
    channel.readStart = at + REQUEST_BYTES + length;
    if (length === 0) {
      this.#replier.done(high, low);
      return true;
    }
    const data = channel.inboxViews.take(at + REQUEST_BYTES, length);
    if (this.#writeNow(flags, high, low, offset, data)) return true;
    if (!this.#take(length, at)) return false;
    const copy = this.#pool.take(length);
    copy.set(data);
    this.#start(COMMAND.WRITE, flags, high, low, offset, length, copy, length);
    return true;
  }

  /** True when the write has ended, well or not, and its answer is given or on its way. */
  #writeNow(flags: number, high: number, low: number, offset: number, data: Uint8Array): boolean {
    this.#turnBytes += data.length;
    try {
      if (!this.#target.tryWrite(offset, data)) return false;
    } catch (error) {
      this.#replier.failed(high, low, COMMAND.WRITE, error);
      return true;
    }
    if ((flags & COMMAND_FLAGS.FUA) === 0) this.#replier.done(high, low);
    else this.#start(COMMAND.FLUSH, 0, high, low, 0, 0, undefined);
    return true;
  }

  #refuseWrite(request: Request, refusal: Refusal): void {
    if (request.lengthBytes > DISCARD_BYTES_MAX) {
      this.#replier.refused(request.cookieHigh, request.cookieLow, refusal);
      this.end();
      return;
    }
    this.#discarded = { request, refusal };
    this.#discardBytes = request.lengthBytes;
  }

  /** Goes on with a payload that spans several reads; true when none is outstanding. */
  #payloadArrived(): boolean {
    if (this.#discarded !== undefined) return this.#discard(this.#discarded);
    const request = this.#arriving;
    if (request === undefined) return true;
    const payload = this.#channel.takePayload();
    if (payload === undefined) return false;
    this.#arriving = undefined;
    const { flags, cookieHigh, cookieLow, offsetBytes, lengthBytes } = request;
    if (this.#writeNow(flags, cookieHigh, cookieLow, offsetBytes, payload.subarray(0, lengthBytes))) {
      this.#pool.give(payload);
      this.#giveBack(lengthBytes);
    } else this.#start(COMMAND.WRITE, flags, cookieHigh, cookieLow, offsetBytes, lengthBytes, payload, lengthBytes);
    return true;
  }

  #discard({ request, refusal }: { request: Request; refusal: Refusal }): boolean {
    const gone = Math.min(this.#discardBytes, this.#channel.unreadBytes);
    this.#channel.readStart += gone;
    this.#discardBytes -= gone;
    if (this.#discardBytes > 0) return false;
    this.#discarded = undefined;
    this.#replier.refused(request.cookieHigh, request.cookieLow, refusal);
    return true;
  }

  // --- operations and limits

  /** `heldBytes`: the memory taken for it. */
  #start(
    command: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    offsetBytes: number,
    lengthBytes: number,
    payload: Buffer | undefined,
    heldBytes = 0,
  ): void {
    const request = { command, flags, cookieHigh, cookieLow, offsetBytes, lengthBytes };
    this.#inFlightRequests++;
    void this.#operations.perform(request, payload).then(() => this.#settle(heldBytes));
  }

  #settle(heldBytes: number): void {
    this.#inFlightRequests--;
    this.#giveBack(heldBytes);
    if (this.#channel.closed) {
      if (this.#closed && this.idle) this.#onSettled();
      return;
    }
    this.#channel.scheduleSend();
    if (!this.#ending) this.#continue();
    else if (this.idle) this.#channel.finish();
  }

  #overLimit(): boolean {
    return (
      this.#inFlightRequests >= NBD_IN_FLIGHT_REQUESTS_MAX ||
      this.#inFlightBytes >= NBD_IN_FLIGHT_BYTES_MAX ||
      this.#channel.outputBlocked
    );
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#channel.pause();
  }

  /** Lets other connections have their turn. */
  #yield(): void {
    this.#pause();
    this.#yielded = true;
    setImmediate(() => {
      this.#yielded = false;
      this.#continue();
    });
  }

  #mayContinue(): boolean {
    return this.#paused && !this.#yielded && !this.#ending && !this.#overLimit();
  }

  /** After a pause: first what is in the inbox, then the socket again. */
  #continue(): void {
    if (!this.#mayContinue()) return;
    this.#paused = false;
    this.#run();
    if (!this.#paused) this.#channel.resume();
  }
}

/** Commands that change the volume, by number. */
const CHANGES: readonly boolean[] = [COMMAND.WRITE, COMMAND.TRIM, COMMAND.WRITE_ZEROES].reduce<boolean[]>(
  (table, command) => {
    table[command] = true;
    return table;
  },
  new Array<boolean>(FLAGS_ALLOWED.length).fill(false),
);
