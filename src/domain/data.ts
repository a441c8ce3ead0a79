/**
 * Data: the bytes of volumes and partitions for API clients, and what is in them.
 *
 * Role: names and ranges are checked here, bytes are moved by the engine under the same rules as a host's.
 * Invariants: at most READ_AHEAD_CHUNKS reads and WRITES_UNDER_WAY writes of one stream are under way; writes of one
 * stream that overlap take effect in the order they came (the engine's range locks are first come, first served).
 */
import { TidemarkError } from "../base/errors.ts";
import { RPC_CHUNK_BYTES } from "../base/limits.ts";
import type { ByteExtent } from "../base/ports.ts";
import type { EngineApi, ExtentRef } from "../engine/engine-api.ts";
import type { Catalog, Target } from "./catalog.ts";
import { EXTENTS_AT_ONCE, FREE_CHUNKS_MAX, READ_AHEAD_CHUNKS, WRITES_UNDER_WAY } from "./limits.ts";

export interface ByteRange {
  readonly name: string;
  readonly offsetBytes: number;
  /** 0: to the end. */
  readonly lengthBytes: number;
}

export interface Chunk {
  readonly offsetBytes: number;
  readonly data: Uint8Array;
  /** To be called, once, when `data` is no longer needed; its memory is used again. Need not be called. */
  release(): void;
}

export class Data {
  readonly #engine: EngineApi;
  readonly #catalog: Catalog;
  /** Memory of chunks that were sent: taking new memory for each costs more than all the rest of a stream. */
  readonly #free: Uint8Array[] = [];

  constructor(engine: EngineApi, catalog: Catalog) {
    this.#engine = engine;
    this.#catalog = catalog;
  }

  /** The content of a range in pieces of `chunkBytes`, in order. RANGE_INVALID, MEDIUM_ERROR, names as Catalog.target. */
  async *read(range: ByteRange, chunkBytes: number = RPC_CHUNK_BYTES): AsyncGenerator<Chunk, void, undefined> {
    const { extent } = await this.#catalog.target(range.name);
    const end = endOf(range, extent);
    const ahead: { offsetBytes: number; data: Promise<Uint8Array> }[] = [];
    let next = range.offsetBytes;
    while (next < end || ahead.length > 0) {
      while (next < end && ahead.length < READ_AHEAD_CHUNKS) {
        const data = this.#engine.read(extent, next, Math.min(chunkBytes, end - next), this.#free.pop());
        // Its failure is thrown when its turn comes; the stream may end before.
        data.catch(() => {});
        ahead.push({ offsetBytes: next, data });
        next += chunkBytes;
      }
      const first = ahead.shift();
      if (first === undefined) continue;
      const data = await first.data;
      yield { offsetBytes: first.offsetBytes, data, release: () => this.#release(data) };
    }
  }

  #release(data: Uint8Array): void {
    if (data.length === RPC_CHUNK_BYTES && this.#free.length < FREE_CHUNKS_MAX) this.#free.push(data);
  }

  /** A writer to one volume or partition. Names as Catalog.target. */
  async openWriter(name: string): Promise<Writer> {
    return new Writer(this.#engine, await this.#catalog.target(name));
  }

  /**
   * Extents changed in epochs `[sinceEpoch, untilEpoch)`, 0 = now, in ascending order, merged where they touch, in
   * batches. EPOCH_NOT_FOUND, RANGE_INVALID, names as Catalog.target.
   */
  async *changed(
    range: ByteRange & { readonly sinceEpoch: number; readonly untilEpoch: number },
  ): AsyncGenerator<readonly ByteExtent[], void, undefined> {
    const { extent } = await this.#catalog.target(range.name);
    const end = endOf(range, extent);
    const { sinceEpoch, untilEpoch } = range;
    yield* merged(range.offsetBytes, end, (offsetBytes, lengthBytes) =>
      this.#engine.changedExtents(extent, {
        sinceEpoch,
        untilEpoch,
        offsetBytes,
        lengthBytes,
        extentsMax: EXTENTS_AT_ONCE,
      }),
    );
  }

  /** Extents that hold data, in ascending order, in batches. RANGE_INVALID, names as Catalog.target. */
  async *allocated(range: ByteRange): AsyncGenerator<readonly ByteExtent[], void, undefined> {
    const { extent } = await this.#catalog.target(range.name);
    let offsetBytes = range.offsetBytes;
    const end = endOf(range, extent);
    let held: ByteExtent | undefined;
    while (offsetBytes < end) {
      const found = await this.#engine.allocatedExtents(extent, {
        offsetBytes,
        lengthBytes: end - offsetBytes,
        extentsMax: EXTENTS_AT_ONCE,
      });
      const last = found.at(-1);
      if (last === undefined) break;
      const data = found.filter(({ zero }) => !zero);
      const { whole, open } = mergeExtents(held, data);
      held = open;
      if (whole.length > 0) yield whole;
      offsetBytes = last.offsetBytes + last.lengthBytes;
    }
    if (held !== undefined) yield [held];
  }
}

/** Writes pieces, some at once, and tells how much was written. */
export class Writer {
  readonly #engine: EngineApi;
  readonly #target: Target;
  readonly #underWay = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;
  #bytesWritten = 0;

  constructor(engine: EngineApi, target: Target) {
    this.#engine = engine;
    this.#target = target;
  }

  /** Resolves when there is room for the next piece. RANGE_INVALID, and whatever failed before. Takes over `data`. */
  async write(offsetBytes: number, data: Uint8Array): Promise<void> {
    if (data.length > RPC_CHUNK_BYTES)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `a piece has ${data.length} bytes`,
        hint: `send at most ${RPC_CHUNK_BYTES} bytes in one message`,
        field: "data",
      });
    const { extent } = this.#target;
    if (data.length === 0) return;
    if (offsetBytes + data.length > extent.lengthBytes) throw rangeInvalid(extent, offsetBytes, data.length);
    const length = data.length;
    const written = this.#engine.write(extent, offsetBytes, data).then(
      () => {
        this.#bytesWritten += length;
      },
      (error: unknown) => {
        this.#failure ??= { error };
      },
    );
    this.#underWay.add(written);
    void written.then(() => this.#underWay.delete(written));
    if (this.#underWay.size >= WRITES_UNDER_WAY) await Promise.race(this.#underWay);
    this.#throwFailure();
  }

  /** Waits for all pieces; `durable` also for the medium. Returns the bytes written. */
  async finish(options: { readonly durability: "acknowledged" | "durable" }): Promise<number> {
    await Promise.all(this.#underWay);
    this.#throwFailure();
    if (options.durability === "durable") await this.#engine.flush(this.#target.volume.uid);
    return this.#bytesWritten;
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}

/** End of a range, which must lie inside the extent. RANGE_INVALID. */
function endOf(range: ByteRange, extent: ExtentRef): number {
  const end = range.lengthBytes === 0 ? extent.lengthBytes : range.offsetBytes + range.lengthBytes;
  if (range.offsetBytes > extent.lengthBytes || end > extent.lengthBytes)
    throw rangeInvalid(extent, range.offsetBytes, range.lengthBytes);
  return end;
}

function rangeInvalid(extent: ExtentRef, offsetBytes: number, lengthBytes: number): TidemarkError {
  return new TidemarkError("RANGE_INVALID", {
    message: `bytes ${offsetBytes} to ${offsetBytes + lengthBytes} do not lie in ${extent.name}`,
    hint: `${extent.name} has ${extent.lengthBytes} bytes`,
    field: "offset_bytes",
    metadata: { offsetBytes: String(offsetBytes), sizeBytes: String(extent.lengthBytes) },
  });
}

/** Pages of ascending extents as one row of extents, merged where they touch, also from page to page. */
async function* merged(
  offsetBytes: number,
  end: number,
  next: (offsetBytes: number, lengthBytes: number) => Promise<readonly ByteExtent[]>,
): AsyncGenerator<readonly ByteExtent[], void, undefined> {
  let held: ByteExtent | undefined;
  for (let at = offsetBytes; at < end; ) {
    const found = await next(at, end - at);
    const last = found.at(-1);
    if (last === undefined) break;
    const { whole, open } = mergeExtents(held, found);
    held = open;
    if (whole.length > 0) yield whole;
    at = last.offsetBytes + last.lengthBytes;
  }
  if (held !== undefined) yield [held];
}

/** Joins extents that touch. The last one stays open: what comes next may touch it. */
export function mergeExtents(
  held: ByteExtent | undefined,
  found: readonly ByteExtent[],
): { readonly whole: ByteExtent[]; readonly open: ByteExtent | undefined } {
  const whole: ByteExtent[] = [];
  let open = held;
  for (const { offsetBytes, lengthBytes } of found) {
    if (open !== undefined && open.offsetBytes + open.lengthBytes === offsetBytes)
      open = { offsetBytes: open.offsetBytes, lengthBytes: open.lengthBytes + lengthBytes };
    else {
      if (open !== undefined) whole.push(open);
      open = { offsetBytes, lengthBytes };
    }
  }
  return { whole, open };
}
