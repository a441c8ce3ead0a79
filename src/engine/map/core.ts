/**
 * Copy core: the WebAssembly kernels, one instance and one memory for each thread.
 *
 * Role: loads the module, owns its memory, hands out pages and buffers, and says how much is in use.
 * Invariants:
 *   1. Memory grows only inside `allocatePage` and `createBuffer`, and never beyond its maximum; nothing else moves views.
 *   2. A view of the memory is fetched again after growth: an older one has length 0, so nobody keeps one across
 *      a call that may allocate (`view` gives a fresh one, `CoreBuffer.bytes` looks after itself).
 *   3. Addresses are positive integers below 2 GiB; 0 is no address.
 */
import { readFile } from "node:fs/promises";
import { instantiate } from "../../../core-wasm/build/core.js";
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { CORE_MEMORY_PAGES_MAX } from "../../base/limits.ts";
import { CoreBuffer } from "./core-buffer.ts";

type Exports = Awaited<ReturnType<typeof instantiate>>;

/** Every kernel that allocates nothing. Addresses must come from `allocatePage` or a `CoreBuffer`. */
export type CoreKernels = Omit<
  Exports,
  "memory" | "poolInit" | "crc32cInit" | "allocatePage" | "allocatePages" | "releasePage"
>;

export interface CoreMemory {
  /** Bytes in pages that are in use, buffers included. */
  readonly usedBytes: number;
  readonly usedPages: number;
  /** Pages released and kept for the next allocation. */
  readonly freePages: number;
  /** Bytes the linear memory has grown to. */
  readonly committedBytes: number;
  readonly maximumBytes: number;
}

export interface CoreOptions {
  /** Upper bound of the memory in WebAssembly pages of 64 KiB. */
  readonly memoryPagesMax?: number;
  /** A module compiled by another thread (`compileCore`); it can be posted to a worker. */
  readonly module?: WebAssembly.Module;
}

/** Size of a bitmap page and of the pool's pages. */
export const CORE_PAGE_BYTES = 4096;
const WASM_PAGE_BYTES = 65_536;
/** The module's own data, and room for the scratch space; asked for by the module's import. */
const MEMORY_PAGES_INITIAL = 4;
/** Foreign bytes are checked in pieces of this size: small enough to stay in the first-level cache. */
const SCRATCH_BYTES = 16_384;
const MODULE_URL = new URL("../../../core-wasm/build/core.wasm", import.meta.url);

export class Core {
  readonly kernels: CoreKernels;
  readonly #exports: Exports;
  readonly #memory: WebAssembly.Memory;
  readonly #memoryPagesMax: number;
  readonly #scratch: CoreBuffer;
  /** Addresses of released buffers by their page count: contiguous pages are worth keeping together. */
  readonly #releasedBuffers = new Map<number, number[]>();

  /** Use `loadCore` or `instantiateCore`. */
  constructor(exports: Exports, memory: WebAssembly.Memory, memoryPagesMax: number) {
    this.#exports = exports;
    this.kernels = exports;
    this.#memory = memory;
    this.#memoryPagesMax = memoryPagesMax;
    exports.poolInit();
    exports.crc32cInit();
    this.#scratch = this.createBuffer(SCRATCH_BYTES);
  }

  /** Address of a 4 KiB page whose bytes are all `fillByte`, or 0 when memory is exhausted. */
  allocatePage(fillByte: 0x00 | 0xff): number {
    return this.#exports.allocatePage(fillByte);
  }

  /** `address` must be in use; a second release is caught. */
  releasePage(address: number): void {
    this.#exports.releasePage(address);
  }

  /** `lengthBytes` bytes of the memory as they are now; not to be kept across a call that may allocate. */
  view(address: number, lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, address, lengthBytes);
  }

  /** Contiguous memory for data, rounded up to whole pages, content undefined. Throws MEMORY_EXHAUSTED. */
  createBuffer(lengthBytes: number): CoreBuffer {
    assert(Number.isSafeInteger(lengthBytes) && lengthBytes > 0, "buffer length must be a positive integer");
    const pageCount = Math.ceil(lengthBytes / CORE_PAGE_BYTES);
    const pagesMax = (this.#memoryPagesMax * WASM_PAGE_BYTES) / CORE_PAGE_BYTES;
    const address =
      this.#releasedBuffers.get(pageCount)?.pop() ??
      (pageCount <= pagesMax ? this.#exports.allocatePages(pageCount) : 0);
    if (address === 0) throw this.exhausted(`a buffer of ${lengthBytes} bytes`);
    return new CoreBuffer(this, address, lengthBytes, () => this.#keepReleased(pageCount, address));
  }

  /** CRC-32C of `bytes` of any length, continuing `seed` (the checksum of the bytes before them; 0 = none). */
  crc32c(bytes: Uint8Array, seed = 0): number {
    if (bytes.buffer === this.#memory.buffer) return this.kernels.crc32c(bytes.byteOffset, bytes.length, seed);
    const scratch = this.#scratch.bytes;
    const address = this.#scratch.address;
    if (bytes.length <= SCRATCH_BYTES) {
      scratch.set(bytes);
      return this.kernels.crc32c(address, bytes.length, seed);
    }
    let checksum = seed;
    for (let at = 0; at < bytes.length; at += SCRATCH_BYTES) {
      const piece = bytes.subarray(at, at + SCRATCH_BYTES);
      scratch.set(piece);
      checksum = this.kernels.crc32c(address, piece.length, checksum);
    }
    return checksum;
  }

  memory(): CoreMemory {
    const released = [...this.#releasedBuffers].reduce((sum, [pages, addresses]) => sum + pages * addresses.length, 0);
    const usedPages = this.kernels.poolPagesUsed() - released;
    return {
      usedBytes: usedPages * CORE_PAGE_BYTES,
      usedPages,
      freePages: this.kernels.poolPagesFree() + released,
      committedBytes: this.#memory.buffer.byteLength,
      maximumBytes: this.#memoryPagesMax * WASM_PAGE_BYTES,
    };
  }

  /** The error for "no more memory" while making `what`. */
  exhausted(what: string): TidemarkError {
    const { usedBytes, maximumBytes } = this.memory();
    return new TidemarkError("MEMORY_EXHAUSTED", {
      message: `no memory is left in the copy core for ${what}`,
      hint: "stop copies that track scattered changes over very large volumes, or restart them so that their maps shrink",
      metadata: { usedBytes: String(usedBytes), maximumBytes: String(maximumBytes) },
    });
  }

  #keepReleased(pageCount: number, address: number): void {
    const kept = this.#releasedBuffers.get(pageCount);
    if (kept) kept.push(address);
    else this.#releasedBuffers.set(pageCount, [address]);
  }
}

let compiled: Promise<WebAssembly.Module> | undefined;
let loading: Promise<Core> | undefined;
let loaded: Core | undefined;

/** The compiled module; compiled once for each thread that asks, or once for a process that posts it to its workers. */
export function compileCore(): Promise<WebAssembly.Module> {
  compiled ??= readFile(MODULE_URL).then((bytes) => WebAssembly.compile(bytes));
  return compiled;
}

/** A core of its own, apart from the thread's; for tests and for work that wants a bound of its own. */
export async function instantiateCore(options: CoreOptions = {}): Promise<Core> {
  const maximum = options.memoryPagesMax ?? CORE_MEMORY_PAGES_MAX;
  assert(maximum > MEMORY_PAGES_INITIAL && maximum <= CORE_MEMORY_PAGES_MAX, "memory bound out of range");
  const memory = new WebAssembly.Memory({ initial: MEMORY_PAGES_INITIAL, maximum });
  const exports = await instantiate(options.module ?? (await compileCore()), { env: { memory } });
  return new Core(exports, memory, maximum);
}

/** This thread's core; the first call makes it, options of later calls do not count. */
export function loadCore(options: CoreOptions = {}): Promise<Core> {
  loading ??= instantiateCore(options).then((core) => {
    loaded = core;
    return core;
  });
  return loading;
}

/** This thread's core, after `loadCore` has resolved. */
export function getCore(): Core {
  assert(loaded !== undefined, "loadCore() must have resolved before getCore()");
  return loaded;
}

/** CRC-32C through this thread's core (see `Core.crc32c`). */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  return getCore().crc32c(bytes, seed);
}
