/**
 * Buffers for large requests, and reply arenas, shared by all connections of a server.
 *
 * Role: avoid allocating (and zeroing, and collecting) megabytes a request. Invariants:
 *   1. A buffer handed out belongs to its taker until it is given back; nothing is handed out twice.
 *   2. What is kept unused is bounded (tuning.ts); what is in use is bounded by the in-flight limits of the connections.
 */
import { assert } from "../../base/assert.ts";
import { KiB } from "../../base/units.ts";
import { ReplyArena } from "./reply-arena.ts";
import { POOL_KEPT_ARENAS_MAX, POOL_KEPT_BYTES_MAX } from "./tuning.ts";

const SMALLEST_BYTES = 4 * KiB;

export class BufferPool {
  /** Unused buffers by size. Sizes are powers of two plus room for a reply header. */
  readonly #kept = new Map<number, Buffer[]>();
  readonly #arenas: ReplyArena[] = [];
  #keptBytes = 0;

  /** A buffer of at least `lengthBytes`, with any content. */
  take(lengthBytes: number): Buffer {
    const size = classOf(lengthBytes);
    const kept = this.#kept.get(size)?.pop();
    if (kept === undefined) return Buffer.allocUnsafeSlow(size);
    this.#keptBytes -= size;
    return kept;
  }

  /** Gives back a buffer that `take` returned (the whole buffer, not a view of it). */
  give(buffer: Buffer): void {
    const size = buffer.length;
    assert(size === classOf(size), "only whole pool buffers come back");
    if (this.#keptBytes + size > POOL_KEPT_BYTES_MAX) return;
    const list = this.#kept.get(size);
    if (list === undefined) this.#kept.set(size, [buffer]);
    else list.push(buffer);
    this.#keptBytes += size;
  }

  takeArena(): ReplyArena {
    return this.#arenas.pop() ?? new ReplyArena();
  }

  giveArena(arena: ReplyArena): void {
    if (this.#arenas.length >= POOL_KEPT_ARENAS_MAX) return;
    arena.clear();
    this.#arenas.push(arena);
  }
}

/** Room for headers in front of a power of two, so that a 1 MiB read and its reply header fit the 1 MiB class. */
const HEADER_ROOM_BYTES = 64;

function classOf(lengthBytes: number): number {
  let size = SMALLEST_BYTES;
  while (size + HEADER_ROOM_BYTES < lengthBytes) size *= 2;
  return size + HEADER_ROOM_BYTES;
}
