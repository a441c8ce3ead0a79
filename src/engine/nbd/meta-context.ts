/**
 * Metadata contexts: what NBD_CMD_BLOCK_STATUS can tell about an export.
 *
 * Role: names, queries and selection. No I/O. `base:allocation` says what is a hole; `qemu:dirty-bitmap:<epoch>` says
 * what changed since that epoch, one context for each epoch of the volume.
 * A query is a name or a wildcard that ends in a colon: `base:`, `qemu:`, `qemu:dirty-bitmap:`.
 * Specification: the NBD protocol, "Metadata querying"; docs/interop/nbd.txt of QEMU for `qemu:`.
 */
import type { IoTarget } from "./io-target.ts";

export const ALLOCATION_CONTEXT = "base:allocation";
export const CHANGES_PREFIX = "qemu:dirty-bitmap:";
const WILDCARD_ALL_QEMU = "qemu:";
const WILDCARD_ALL_BASE = "base:";

export interface MetaContext {
  readonly name: string;
  /** Epoch whose changes it shows; undefined for `base:allocation`. */
  readonly epochId: number | undefined;
}

/** A selected context and the number under which the server speaks of it. */
export interface SelectedContext extends MetaContext {
  readonly id: number;
}

/** Every context of an export, `base:allocation` first, then epochs from the oldest on. */
export function contextsOf(target: IoTarget): MetaContext[] {
  const changes = target.epochs().map((epochId) => ({ name: `${CHANGES_PREFIX}${epochId}`, epochId }));
  return [{ name: ALLOCATION_CONTEXT, epochId: undefined }, ...changes];
}

/** True when the query has the form `namespace:leaf`; unknown namespaces are well-formed and match nothing. */
export function isQuery(query: string): boolean {
  return query.indexOf(":") > 0;
}

/** The contexts that match at least one query, each once, in the order of `contexts`. */
export function matchContexts(contexts: readonly MetaContext[], queries: readonly string[]): MetaContext[] {
  const asked = new Set(queries);
  const allBase = asked.has(WILDCARD_ALL_BASE);
  const allChanges = asked.has(WILDCARD_ALL_QEMU) || asked.has(CHANGES_PREFIX);
  return contexts.filter((c) => asked.has(c.name) || (c.epochId === undefined ? allBase : allChanges));
}
