/**
 * Which copies may start: everything a point checks before anything happens.
 *
 * Role: pure functions over the sessions that exist. The same check runs before the barrier (to refuse early) and inside it
 * (because the state may have changed meanwhile).
 * Source: spec/11 "Copy engines", "Restore legality matrix", "swsrpmake" Table 14.9; DESIGN section 4 (cascades).
 */
import { TidemarkError } from "../../base/errors.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import type { CopyKind, ExtentRef } from "../engine-api.ts";
import { extentsOverlap, sameExtent, sameStart } from "./extents.ts";
import { type SessionEvent, type SessionState, TRANSITIONS, type Transition } from "./transitions.ts";

/** What the rules need to know of a session. */
export interface SessionView {
  readonly id: string;
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly state: SessionState;
  /** True when granules are still to be copied or their copy is not yet durable. */
  readonly unfinished: boolean;
}

export interface PairRequest {
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly kind: CopyKind;
}

export interface StartPlan<S extends SessionView> {
  /** Session that is run again. */
  readonly existing: S | undefined;
  /** Tracked session that this one copies back. */
  readonly restores: S | undefined;
  readonly transition: Transition;
  /** Both as long as what is copied. */
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
}

/** Throws the reason why the copy may not start, or says what it would do. */
export function planStart<S extends SessionView>(sessions: readonly S[], request: PairRequest): StartPlan<S> {
  const { destination } = request;
  for (const [field, side] of [
    ["source", request.source],
    ["destination", destination],
  ] as const)
    requireAligned(field, side);
  const existing = sessions.find(
    (session) => sameExtent(session.source, request.source) && sameStart(session.destination, destination),
  );
  const reversed = sessions.find(
    (session) =>
      sameExtent(session.source, destination) &&
      sameStart(session.destination, request.source) &&
      request.source.lengthBytes >= session.source.lengthBytes,
  );
  // A restore copies back what had been copied: the destination of a pair may be larger than its source.
  const lengthBytes = reversed
    ? Math.min(request.source.lengthBytes, reversed.source.lengthBytes)
    : request.source.lengthBytes;
  const source = { ...request.source, lengthBytes };
  requireDistinct(source, destination);
  if (destination.lengthBytes < lengthBytes)
    throw new TidemarkError("DESTINATION_TOO_SMALL", {
      message: `destination ${destination.name} has ${destination.lengthBytes} bytes, source ${source.name} has ${lengthBytes}`,
      hint: "choose a destination at least as large as the source, or enlarge it with `tidemark volume resize`",
    });
  const target = { ...destination, lengthBytes };
  const transition = chooseTransition(existing, reversed, request.kind);
  requireReadableSource(sessions, source);
  requireFreeDestination(sessions, target, { existing, reversed });
  requireNoCycle(sessions, source, target, reversed);
  const restores = transition.reason === "RESTORE_DIFFERENCE" ? reversed : undefined;
  return { existing, restores, transition, source, destination: target };
}

/** The cell of the table, or the refusal. */
export function transitionOf(state: SessionState, event: SessionEvent, id: string): Transition {
  const transition = TRANSITIONS[state][event];
  if (transition) return transition;
  if (event === "stop-tracking")
    throw new TidemarkError("NOT_TRACKING", {
      message: `copy ${id} does not track changes`,
      hint: "only QuickOPC copies track; `tidemark copy list` shows them",
    });
  throw new TidemarkError("COPY_STATE", {
    message: `copy ${id} cannot do "${event}" while it is ${describe(state)}`,
    hint: "look at it with `tidemark copy get`, wait or cancel it, then try again",
  });
}

function chooseTransition(
  existing: SessionView | undefined,
  reversed: SessionView | undefined,
  kind: CopyKind,
): Transition {
  if (reversed?.state === "quick-tracking") {
    if (kind === "opc") return transitionOf(reversed.state, "restore", reversed.id);
    throw new TidemarkError("REVERSE_NOT_OPC", {
      message: `copy ${reversed.id} tracks the opposite direction, so this direction can only be copied with OPC`,
      hint: "restore with --kind opc (only what differs is copied), or end the tracking with `tidemark copy cancel` first",
    });
  }
  return transitionOf(existing?.state ?? "none", kind === "opc" ? "start-opc" : "start-quickopc", existing?.id ?? "");
}

function requireAligned(field: string, side: ExtentRef): void {
  if (side.offsetBytes % GRANULE_SIZE_BYTES === 0) return;
  throw new TidemarkError("PARTITION_UNALIGNED", {
    message: `${field} ${side.name} begins at byte ${side.offsetBytes}, which is not a multiple of ${GRANULE_SIZE_BYTES}`,
    hint: "copy the whole volume, or recreate the partition on an 8 KiB boundary (partitioning tools use 1 MiB today)",
    field,
  });
}

function requireDistinct(source: ExtentRef, destination: ExtentRef): void {
  if (!extentsOverlap(source, destination)) return;
  throw new TidemarkError("SOURCE_IS_DESTINATION", {
    message: `source ${source.name} and destination ${destination.name} share bytes of the same volume`,
    hint: "choose another destination",
  });
}

function requireReadableSource(sessions: readonly SessionView[], source: ExtentRef): void {
  for (const session of sessions) {
    if (!session.unfinished || !session.state.endsWith("failed")) continue;
    if (!extentsOverlap(session.destination, source)) continue;
    throw new TidemarkError("SOURCE_UNREADABLE", {
      message: `source ${source.name} is the incomplete destination of the failed copy ${session.id}`,
      hint: `start copy ${session.id} again, or cancel it if its destination is to be used as it is`,
    });
  }
}

function requireFreeDestination(
  sessions: readonly SessionView[],
  destination: ExtentRef,
  partners: { existing: SessionView | undefined; reversed: SessionView | undefined },
): void {
  for (const session of sessions) {
    if (session === partners.existing) continue;
    if (extentsOverlap(session.destination, destination)) {
      // A restore may go into the destination of an upstream pair that only tracks: it then counts as a change there.
      const onlyTracks = session.state === "quick-tracking" && partners.reversed?.state === "quick-tracking";
      if (!onlyTracks)
        throw new TidemarkError("DESTINATION_IN_USE", {
          message: `destination ${destination.name} is the destination of copy ${session.id} (from ${session.source.name})`,
          hint: `cancel copy ${session.id} or choose another destination`,
        });
    }
    if (session.unfinished && !session.state.endsWith("failed") && extentsOverlap(session.source, destination))
      throw new TidemarkError("DESTINATION_COPYING", {
        message: `copy ${session.id} (to ${session.destination.name}) still needs the present content of ${destination.name}`,
        hint: `wait until it has finished (\`tidemark copy watch ${session.id}\`) or cancel it`,
      });
  }
}

/** Follows the data from the destination on; reaching the source would let a copy feed itself. */
function requireNoCycle(
  sessions: readonly SessionView[],
  source: ExtentRef,
  destination: ExtentRef,
  reversed: SessionView | undefined,
): void {
  const seen = new Set<SessionView>();
  const open: ExtentRef[] = [destination];
  for (let extent = open.pop(); extent !== undefined; extent = open.pop()) {
    for (const session of sessions) {
      if (seen.has(session) || session === reversed || !extentsOverlap(session.source, extent)) continue;
      seen.add(session);
      if (extentsOverlap(session.destination, source))
        throw new TidemarkError("COPY_CYCLE", {
          message: `copying ${source.name} to ${destination.name} would close a circle through copy ${session.id}`,
          hint: `cancel copy ${session.id} first, or restore step by step along the cascade`,
        });
      open.push(session.destination);
    }
  }
}

function describe(state: SessionState): string {
  return state === "none" ? "ended" : (state.split("-")[1] ?? state);
}
