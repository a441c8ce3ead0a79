/** What the use cases share. Built once, by box.ts. */
import type { Clock, Random } from "../base/ports.ts";
import type { EngineApi } from "../engine/engine-api.ts";
import type { Catalog } from "./catalog.ts";
import type { Journal } from "./journal.ts";
import type { KeyedMutex } from "./keyed-mutex.ts";
import type { Paths, PlacementRules } from "./paths.ts";

export interface Context {
  readonly engine: EngineApi;
  readonly journal: Journal;
  readonly catalog: Catalog;
  /** Keys are uids of volumes. */
  readonly locks: KeyedMutex;
  readonly clock: Clock;
  readonly random: Random;
  readonly paths: Paths;
  readonly rules: PlacementRules;
  /** Told of what went wrong where no caller can be told. */
  readonly report: (what: string, error: unknown) => void;
}

/** A new identity: a version 4 UUID. */
export function newUid(random: Random): string {
  const bytes = Buffer.from(random.bytes(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
