/**
 * Requests that could not be finished at once: they wait for a device, a flush, or a client that reads slowly.
 *
 * Role: runs one request to its answer, in any order with others (NBD allows it).
 * Invariants:
 *   1. A buffer given to the target is kept until the call has settled, also when the client is gone by then.
 *   2. A FUA command is answered after a flush that started after its write had ended.
 *   3. `perform` never rejects but for assertions; every error becomes an answer.
 */
import type { BufferPool } from "./buffer-pool.ts";
import type { Channel } from "./channel.ts";
import type { IoTarget } from "./io-target.ts";
import type { SelectedContext } from "./meta-context.ts";
import { CHUNK_FLAG_DONE, COMMAND, COMMAND_FLAGS, DATA_CHUNK_HEADER_BYTES, SIMPLE_REPLY_BYTES } from "./protocol.ts";
import { type Cookie, REFUSED, type Replier } from "./replier.ts";
import { putDataChunkHeader, putSimpleHeader } from "./reply-arena.ts";
import { type Descriptors, describeAllocation, describeChanges } from "./status.ts";
import { COPIED_REPLY_BYTES_MAX, READ_PIECE_BYTES, STATUS_EXTENTS_MAX } from "./tuning.ts";

/** A request as it came, its range checked. */
export interface Request extends Cookie {
  readonly command: number;
  readonly flags: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface OperationsParts {
  readonly target: IoTarget;
  readonly channel: Channel;
  readonly replier: Replier;
  readonly pool: BufferPool;
  readonly contexts: readonly SelectedContext[];
}

export class Operations {
  readonly #target: IoTarget;
  readonly #channel: Channel;
  readonly #replier: Replier;
  readonly #pool: BufferPool;
  readonly #contexts: readonly SelectedContext[];

  constructor(parts: OperationsParts) {
    this.#target = parts.target;
    this.#channel = parts.channel;
    this.#replier = parts.replier;
    this.#pool = parts.pool;
    this.#contexts = parts.contexts;
  }

  /** Memory that a read holds until the client has taken its reply. */
  heldBytesOfRead(flags: number, lengthBytes: number): number {
    return this.#readsInPieces({ flags, lengthBytes }) ? READ_PIECE_BYTES : lengthBytes;
  }

  /** `payload`: pool buffer with the data of a WRITE; it is given back when the write has ended. */
  async perform(request: Request, payload: Buffer | undefined): Promise<void> {
    try {
      await this.#dispatch(request, payload);
    } catch (error) {
      this.#replier.failed(request.cookieHigh, request.cookieLow, request.command, error);
    }
  }

  #dispatch(request: Request, payload: Buffer | undefined): Promise<void> {
    switch (request.command) {
      case COMMAND.READ:
        return this.#readsInPieces(request) ? this.#readPieces(request) : this.#readWhole(request);
      case COMMAND.WRITE:
        return this.#write(request, payload!);
      case COMMAND.TRIM:
        return this.#change(request, this.#target.trim(request.offsetBytes, request.lengthBytes));
      case COMMAND.WRITE_ZEROES:
        return this.#zero(request);
      case COMMAND.CACHE:
        return this.#answer(request, this.#target.cache(request.offsetBytes, request.lengthBytes));
      case COMMAND.BLOCK_STATUS:
        return this.#blockStatus(request);
      default:
        return this.#answer(request, this.#target.flush());
    }
  }

  /** Only structured replies can report an error after the first bytes; "don't fragment" forbids several chunks. */
  #readsInPieces({ flags, lengthBytes }: Pick<Request, "flags" | "lengthBytes">): boolean {
    return this.#replier.structured && lengthBytes > READ_PIECE_BYTES && !(flags & COMMAND_FLAGS.DF);
  }

  /** Reads everything, then answers in one piece. */
  async #readWhole({ cookieHigh, cookieLow, offsetBytes, lengthBytes }: Request): Promise<void> {
    const headerBytes = this.#replier.structured ? DATA_CHUNK_HEADER_BYTES : SIMPLE_REPLY_BYTES;
    const buffer = this.#pool.take(headerBytes + lengthBytes);
    const data = buffer.subarray(headerBytes, headerBytes + lengthBytes);
    try {
      const large = lengthBytes > READ_PIECE_BYTES;
      if (!large || !this.#target.tryRead(offsetBytes, data)) await this.#target.read(offsetBytes, data);
    } catch (error) {
      this.#pool.give(buffer);
      throw error;
    }
    const view = new DataView(buffer.buffer, buffer.byteOffset, headerBytes);
    if (this.#replier.structured) {
      putDataChunkHeader(view, 0, CHUNK_FLAG_DONE, cookieHigh, cookieLow, offsetBytes, lengthBytes);
    } else putSimpleHeader(view, 0, cookieHigh, cookieLow, 0);
    await this.#sendReply(buffer, headerBytes + lengthBytes);
  }

  /** Reads and answers piece by piece, each while the client takes the one before; waits when it does not. */
  async #readPieces(request: Request): Promise<void> {
    const { cookieHigh, cookieLow, offsetBytes, lengthBytes, command } = request;
    const channel = this.#channel;
    for (let done = 0; done < lengthBytes; ) {
      if (channel.outputBlocked) await channel.writable();
      if (channel.closed) return;
      const at = offsetBytes + done;
      const length = Math.min(READ_PIECE_BYTES, lengthBytes - done);
      done += length;
      try {
        await this.#readPiece(cookieHigh, cookieLow, at, length, done === lengthBytes ? CHUNK_FLAG_DONE : 0);
      } catch (error) {
        this.#replier.failed(cookieHigh, cookieLow, command, error, at);
        return;
      }
    }
  }

  #readPiece(high: number, low: number, at: number, length: number, chunkFlags: number): Promise<void> | undefined {
    const arena = this.#channel.reserve(DATA_CHUNK_HEADER_BYTES + length);
    const start = arena.end + DATA_CHUNK_HEADER_BYTES;
    if (!this.#target.tryRead(at, arena.bytes.subarray(start, start + length))) {
      return this.#readPieceLater(high, low, at, length, chunkFlags);
    }
    putDataChunkHeader(arena.view, arena.end, chunkFlags, high, low, at, length);
    arena.end = start + length;
    this.#channel.send();
    return undefined;
  }

  async #readPieceLater(high: number, low: number, at: number, length: number, chunkFlags: number): Promise<void> {
    const buffer = this.#pool.take(DATA_CHUNK_HEADER_BYTES + length);
    try {
      await this.#target.read(at, buffer.subarray(DATA_CHUNK_HEADER_BYTES, DATA_CHUNK_HEADER_BYTES + length));
    } catch (error) {
      this.#pool.give(buffer);
      throw error;
    }
    const view = new DataView(buffer.buffer, buffer.byteOffset, DATA_CHUNK_HEADER_BYTES);
    putDataChunkHeader(view, 0, chunkFlags, high, low, at, length);
    // Not waited for: what is queued for the client is bounded by itself, and the next piece is read meanwhile.
    void this.#sendReply(buffer, DATA_CHUNK_HEADER_BYTES + length);
  }

  /** Small replies share the arena's next write, large ones go alone and uncopied. Resolves when the buffer is free again. */
  #sendReply(buffer: Buffer, lengthBytes: number): Promise<void> | undefined {
    if (lengthBytes > COPIED_REPLY_BYTES_MAX)
      return new Promise((resolve) => {
        this.#channel.sendBuffer(buffer, lengthBytes, () => {
          this.#pool.give(buffer);
          resolve();
        });
      });
    this.#channel.reserve(lengthBytes).append(buffer.subarray(0, lengthBytes));
    this.#pool.give(buffer);
    return undefined;
  }

  async #write(request: Request, payload: Buffer): Promise<void> {
    try {
      await this.#target.write(request.offsetBytes, payload.subarray(0, request.lengthBytes));
    } finally {
      this.#pool.give(payload);
    }
    await this.#afterChange(request);
  }

  #zero(request: Request): Promise<void> {
    const release = request.flags & COMMAND_FLAGS.NO_HOLE ? ("keep" as const) : ("allow" as const);
    if (request.flags & COMMAND_FLAGS.FAST_ZERO && this.#target.zeroIsFast?.({ release }) !== true) {
      this.#replier.refused(request.cookieHigh, request.cookieLow, REFUSED.notFast);
      return Promise.resolve();
    }
    return this.#change(request, this.#target.zero(request.offsetBytes, request.lengthBytes, { release }));
  }

  async #change(request: Request, work: Promise<void>): Promise<void> {
    await work;
    await this.#afterChange(request);
  }

  async #afterChange(request: Request): Promise<void> {
    if (request.flags & COMMAND_FLAGS.FUA) await this.#target.flush();
    this.#replier.done(request.cookieHigh, request.cookieLow);
  }

  async #answer(request: Request, work: Promise<void>): Promise<void> {
    await work;
    this.#replier.done(request.cookieHigh, request.cookieLow);
  }

  /** All contexts are looked up before the first chunk: an answer is complete or an error. */
  async #blockStatus(request: Request): Promise<void> {
    const { offsetBytes, lengthBytes } = request;
    const extentsMax = request.flags & COMMAND_FLAGS.REQ_ONE ? 1 : STATUS_EXTENTS_MAX;
    const answers: Descriptors[] = [];
    for (const { epochId } of this.#contexts) {
      if (epochId === undefined) {
        const extents = await this.#target.allocation(offsetBytes, lengthBytes, extentsMax);
        answers.push(describeAllocation(extents, offsetBytes, lengthBytes).slice(0, 2 * extentsMax));
      } else {
        const runs = this.#target.changed(epochId, offsetBytes, lengthBytes, extentsMax);
        answers.push(describeChanges(runs, extentsMax, offsetBytes, lengthBytes).slice(0, 2 * extentsMax));
      }
    }
    this.#contexts.forEach(({ id }, index) => {
      const place = index === this.#contexts.length - 1 ? "last" : "more";
      this.#replier.status(request, id, answers[index]!, place);
    });
  }
}
