/**
 * Generations of SnapOPC+ as data: who is which number, what may be added and cancelled, where a granule is read, and what must
 * be preserved before a write.
 *
 * Role: decides; no I/O, no clock. A chain is a list of generations of one source, oldest first. A SnapOPC session is a chain of
 * one generation, and a source may have several such chains beside each other.
 * Rules (spec/11 "I/O rules per session", "SnapOPC+"; spec/22 "SnapOPC+ generations"):
 *   1. Numbers are places: 1 is the oldest, and they move down when older ones go. A generation that has failed keeps its place but
 *      shows no number.
 *   2. A read of generation k finds the granule in k, k+1, ... up to the newest, else in the source.
 *   3. A write to the source is preceded by preserving the old data in the newest generation, if that does not hold it.
 *   4. A write to generation k is preceded by preserving what is read there now in generation k-1, if that does not hold it.
 *      Nothing else sees the write: newer ones never read older ones, and older ones stop at k-1.
 *   5. So only the oldest can go without harm to others, and whatever befalls k befalls all older ones: cancelling by force,
 *      failing, overflowing.
 *   6. A generation is added as the newest. On the volume of the oldest one it replaces that; on any other it is refused.
 * Invariants: destinations are distinct; a failed generation has only failed ones below it.
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { SNAP_GENERATIONS_MAX } from "../../base/limits.ts";

export type SnapFailureReason = "overflow" | "badsector" | "other";

export interface SnapGeneration {
  /** The snap data volume it is kept in. */
  readonly destination: string;
  readonly failure?: SnapFailureReason;
}

/** Oldest first. */
export type SnapChain = readonly SnapGeneration[];

/** Whether a generation's store holds the granule in question. */
export type HoldsGranule = (destination: string) => boolean;

/** Where the bytes of a granule are. */
export type SnapPlace = { readonly from: "generation"; readonly destination: string } | { readonly from: "source" };

/** Store `what` is read from `from` in `into`, before the write. */
export interface SnapPreservation {
  readonly into: string;
  readonly from: SnapPlace;
}

export interface SnapWritePlan {
  /** Durable before the write; undefined: nothing is owed. */
  readonly preserve: SnapPreservation | undefined;
  /** What a write of a part of the granule is completed from; undefined: the volume itself holds it. */
  readonly complete: SnapPlace | undefined;
}

/** The number that is shown; undefined: failed. */
export function generationNumber(chain: SnapChain, destination: string): number | undefined {
  const index = indexIn(chain, destination);
  return chain[index]?.failure === undefined ? index + 1 : undefined;
}

/** Whether copy-on-write goes into it: `copy-on-write(active)`, otherwise `(inactive)`. */
export function generationActivity(chain: SnapChain, destination: string): "active" | "inactive" | "failed" {
  const index = indexIn(chain, destination);
  if (chain[index]?.failure !== undefined) return "failed";
  return index === chain.length - 1 ? "active" : "inactive";
}

// --- changes ---------------------------------------------------------------------------------------------------------

export interface ChainChange {
  readonly chain: SnapChain;
  /** Generations whose data goes with this change, oldest first: their stores are emptied after the change is durable. */
  readonly dropped: readonly string[];
}

/** Rule 6. COPY_STATE: the volume holds a generation that is not the oldest. LIMIT_EXCEEDED. */
export function addGeneration(chain: SnapChain, destination: string): ChainChange {
  const index = chain.findIndex((generation) => generation.destination === destination);
  if (index > 0) {
    throw new TidemarkError("COPY_STATE", {
      message: `${destination} holds generation ${index + 1} of ${chain.length} of this source; only the oldest is replaced`,
      hint: `use another snap data volume, or cancel the generations up to ${index} first`,
      metadata: { generation: String(index + 1) },
    });
  }
  const kept = index === 0 ? chain.slice(1) : chain;
  if (kept.length >= SNAP_GENERATIONS_MAX) {
    throw new TidemarkError("LIMIT_EXCEEDED", {
      message: `a source has at most ${SNAP_GENERATIONS_MAX} generations`,
      hint: "start onto the volume of the oldest generation, or cancel that one",
    });
  }
  return { chain: [...kept, { destination }], dropped: index === 0 ? [destination] : [] };
}

/** "oldest-first": only the oldest goes. "force": it and all older ones. COPY_STATE: it is not the oldest. */
export function cancelGeneration(chain: SnapChain, destination: string, order: "oldest-first" | "force"): ChainChange {
  const index = indexIn(chain, destination);
  if (index > 0 && order === "oldest-first") {
    throw new TidemarkError("COPY_STATE", {
      message: `${destination} holds generation ${index + 1}; older generations are read through it`,
      hint: "cancel the oldest generation first, or use force to cancel this one and all older ones",
      metadata: { generation: String(index + 1) },
    });
  }
  return {
    chain: chain.slice(index + 1),
    dropped: chain.slice(0, index + 1).map((generation) => generation.destination),
  };
}

/** Rule 5: the generation and all older ones fail; those that had failed keep their reason. */
export function failGeneration(
  chain: SnapChain,
  destination: string,
  failure: SnapFailureReason,
): { readonly chain: SnapChain; readonly failed: readonly string[] } {
  const index = indexIn(chain, destination);
  const hit = (generation: SnapGeneration, at: number) => at <= index && generation.failure === undefined;
  return {
    chain: chain.map((generation, at) => (hit(generation, at) ? { ...generation, failure } : generation)),
    failed: chain.filter(hit).map((generation) => generation.destination),
  };
}

// --- reading ---------------------------------------------------------------------------------------------------------

/** Where to look for a granule of a generation, in this order. COPY_STATE: it has failed. */
export function readOrder(chain: SnapChain, destination: string): readonly SnapPlace[] {
  const index = requireLive(chain, destination);
  const places: SnapPlace[] = chain
    .slice(index)
    .map((generation) => ({ from: "generation", destination: generation.destination }));
  return [...places, { from: "source" }];
}

/** Rule 2 for one granule. COPY_STATE: the generation has failed. */
export function locate(chain: SnapChain, destination: string, holds: HoldsGranule): SnapPlace {
  const found = readOrder(chain, destination).find((place) => place.from === "source" || holds(place.destination));
  assert(found !== undefined, "the source has every granule");
  return found;
}

// --- before a write --------------------------------------------------------------------------------------------------

/** Rule 3; undefined: nothing is owed, because it is held, or because the newest has failed, and so all of them. */
export function beforeSourceWrite(chain: SnapChain, holds: HoldsGranule): SnapPreservation | undefined {
  const newest = chain.at(-1);
  if (newest === undefined || newest.failure !== undefined || holds(newest.destination)) return undefined;
  return { into: newest.destination, from: { from: "source" } };
}

/** Rule 4. COPY_STATE: the generation has failed. */
export function beforeGenerationWrite(chain: SnapChain, destination: string, holds: HoldsGranule): SnapWritePlan {
  const index = requireLive(chain, destination);
  const now = locate(chain, destination, holds);
  const older = chain[index - 1];
  const owed = older !== undefined && older.failure === undefined && !holds(older.destination);
  return {
    preserve: owed ? { into: older.destination, from: now } : undefined,
    complete: holds(destination) ? undefined : now,
  };
}

/** Generations whose stores together say what may differ between `destination` and the source: what a restore copies. */
export function restoreSources(chain: SnapChain, destination: string): readonly string[] {
  return chain.slice(requireLive(chain, destination)).map((generation) => generation.destination);
}

function requireLive(chain: SnapChain, destination: string): number {
  const index = indexIn(chain, destination);
  const failure = chain[index]?.failure;
  if (failure === undefined) return index;
  throw new TidemarkError("COPY_STATE", {
    message: `the generation in ${destination} has failed (${failure}) and can neither be read nor written`,
    hint: "cancel it, and with it the older ones",
    metadata: { reason: failure },
  });
}

/** SESSION_NOT_FOUND. */
function indexIn(chain: SnapChain, destination: string): number {
  const index = chain.findIndex((generation) => generation.destination === destination);
  if (index >= 0) return index;
  throw new TidemarkError("SESSION_NOT_FOUND", { message: `${destination} holds no generation of this source` });
}
