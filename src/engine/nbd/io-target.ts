/**
 * What the NBD front door needs from a volume or partition that it offers. The engine implements it.
 *
 * Offsets are relative to the export and already checked to lie inside it. `try...` calls complete at once or return
 * false without a visible effect; then the caller uses the asynchronous form. Errors are TidemarkErrors.
 */
import type { AllocationExtent, ByteExtent } from "../../base/ports.ts";

export interface IoTarget {
  readonly sizeBytes: number;
  /** True when neither the export nor the device may be written. */
  readonly readOnly: boolean;
  tryRead(offsetBytes: number, into: Uint8Array): boolean;
  /** The buffer may be reused as soon as the call has returned. */
  tryWrite(offsetBytes: number, from: Uint8Array): boolean;
  read(offsetBytes: number, into: Uint8Array): Promise<void>;
  /** The buffer must not change until the promise has settled. */
  write(offsetBytes: number, from: Uint8Array): Promise<void>;
  /** Everything acknowledged before the call is durable when it resolves (all connections: one flush domain). */
  flush(): Promise<void>;
  zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void>;
  /** Whether `zero` is much cheaper than writing zeros (NBD_CMD_FLAG_FAST_ZERO). Absent: it is not known to be. */
  zeroIsFast?(options: { release: "allow" | "keep" }): boolean;
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Brings data not yet received from a copy source into the volume (NBD_CMD_CACHE). */
  cache(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Covers the range from its start, at most `extentsMax` extents. */
  allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]>;
  /** Ids of epochs that can be asked for, oldest first. */
  epochs(): readonly number[];
  /** Runs changed since epoch `epochId` inside the range, at most `extentsMax`. EPOCH_NOT_FOUND when it is gone. */
  changed(epochId: number, offsetBytes: number, lengthBytes: number, extentsMax: number): readonly ByteExtent[];
}

/** Exports that clients may open, looked up anew for each client. */
export interface ExportTable {
  names(): readonly string[];
  open(name: string): { readonly name: string; readonly target: IoTarget } | undefined;
}
