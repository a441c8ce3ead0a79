/** Ports: what the engine needs from outside, so that tests and the simulator can give it something else. */

/** Time. Production: `systemClock` (base/clock.ts). */
export interface Clock {
  /** Milliseconds since 1970, for people. */
  nowMs(): number;
  /** Milliseconds that never go back, for measuring. */
  monotonicMs(): number;
  /** Resolves after `ms`; resolves early, without error, when `signal` aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Chance. */
export interface Random {
  /** `length` random bytes. */
  bytes(length: number): Uint8Array;
}

export interface ByteExtent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** What a stretch of a device holds. `zero`: known to read as zeros (a hole or an unwritten extent). */
export interface AllocationExtent extends ByteExtent {
  readonly zero: boolean;
}

export type DeviceKind = "file" | "block" | "memory" | "partition" | "fault";

export interface DeviceCapabilities {
  /** `allocation` knows holes. */
  readonly holes: boolean;
  /** `trim` gives space back. */
  readonly trim: boolean;
  /** File system that can share extents (`FICLONERANGE`); devices with the same value can share with each other. */
  readonly cloneDomain: string | undefined;
}

/**
 * A row of bytes of fixed size that keeps what was written.
 *
 * Guarantees every implementation gives:
 * - offsets and lengths are checked by the caller to lie inside `[0, sizeBytes)`; an implementation asserts it;
 * - `read`/`write` are complete or throw (no short results); a failed write leaves each sector old or new;
 * - errors are TidemarkErrors: MEDIUM_ERROR (metadata `offsetBytes`, `lengthBytes`), NO_SPACE, DEVICE_GONE, READ_ONLY;
 * - `flush` makes durable every write that had returned before it was called; concurrent calls may share one sync,
 *   but only one that started after the call;
 * - after a failed `flush` the device stays failed: later calls throw DEVICE_GONE until it is opened again;
 * - `tryRead`/`tryWrite` never wait for a medium: they either complete at once and return true, or do nothing
 *   visible and return false, and then the caller uses `read`/`write`;
 * - the buffer belongs to the device until the call has ended.
 */
export interface BlockDevice {
  readonly kind: DeviceKind;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly capabilities: DeviceCapabilities;
  /** Open file descriptor and the offset of byte 0 in it, if the copier workers may use it directly. */
  readonly direct: { readonly fd: number; readonly baseOffsetBytes: number } | undefined;
  tryRead(offsetBytes: number, into: Uint8Array): boolean;
  tryWrite(offsetBytes: number, from: Uint8Array): boolean;
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  write(offsetBytes: number, from: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  /** The range reads as zeros afterwards. `release: "allow"` may give its space back, `"keep"` keeps it allocated. */
  zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void>;
  /** Hint that the content is no longer needed; reads afterwards give old data or zeros. */
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Extents covering the range from `offsetBytes` on, adjacent ones merged, at most `extentsMax` of them. */
  allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]>;
  /** Grows or shrinks the backing file; block devices only confirm a size they already have. Throws SIZE_INVALID. */
  resize(sizeBytes: number): Promise<void>;
  /** Changes whenever anybody writes to the backing, as far as the backing can tell; "" when it cannot. */
  stamp(): Promise<string>;
  close(): Promise<void>;
}

/** One stretch to copy: from source byte to destination byte. */
export interface MoveRun {
  readonly fromOffsetBytes: number;
  readonly toOffsetBytes: number;
  readonly lengthBytes: number;
}

export interface MoveResult {
  /** Bytes finished, counted along the runs in order; less than asked when the budget ended the job early. */
  readonly doneBytes: number;
  /** Of these: read and written, zeroed or skipped because both sides are zero, and shared by reference. */
  readonly copiedBytes: number;
  readonly zeroedBytes: number;
  readonly clonedBytes: number;
}
