/**
 * Which failures are allowed: a refusal by the rules always, any other only after a fault that explains it.
 *
 * Role: remembers what faults there were; says of an error, an event or a trouble whether it has a reason.
 */
import { TidemarkError } from "../../src/base/errors.ts";

/**
 * `state-damage`: a state file could not be read, which counts as damage of it. `store-full`, `store-failure`: the database of
 * the box took a commit for nothing, or could not be read.
 */
export type FaultKind =
  | "device"
  | "stall"
  | "state-full"
  | "state-failure"
  | "state-damage"
  | "store-full"
  | "store-failure";

/** What the rules of copying refuse; nothing has happened then. */
const REFUSALS: ReadonlySet<string> = new Set([
  "SOURCE_IS_DESTINATION",
  "DESTINATION_TOO_SMALL",
  "DESTINATION_IN_USE",
  "DESTINATION_COPYING",
  "SOURCE_UNREADABLE",
  "COPY_CYCLE",
  "REVERSE_NOT_OPC",
  "COPY_STATE",
  "NOT_TRACKING",
  "SESSION_NOT_FOUND",
]);

const EXPLAINED: Readonly<Record<FaultKind, ReadonlySet<string>>> = {
  device: new Set(["MEDIUM_ERROR", "NO_SPACE", "DEVICE_GONE", "VOLUME_UNAVAILABLE"]),
  stall: new Set(["BARRIER_TIMEOUT", "DEVICE_TIMEOUT"]),
  "state-full": new Set(["METADATA_WRITE_FAILED", "MEDIUM_ERROR"]),
  "state-failure": new Set(["METADATA_WRITE_FAILED", "VOLUME_UNAVAILABLE"]),
  // A box that cannot read which database is its own does not start.
  "state-damage": new Set(["MEDIUM_ERROR", "METADATA_CORRUPT"]),
  "store-full": new Set(["METADATA_WRITE_FAILED"]),
  "store-failure": new Set(["METADATA_WRITE_FAILED", "MEDIUM_ERROR"]),
};

export class Judge {
  readonly #faults = new Set<FaultKind>();
  readonly #present = new Set<FaultKind>();
  /** The box is being stopped: what is asked may be refused. */
  stopping = false;

  fault(kind: FaultKind): void {
    this.#faults.add(kind);
    this.#present.add(kind);
  }

  /** A process begins. */
  started(): void {
    this.#present.clear();
    this.stopping = false;
  }

  /** Since the process began. */
  has(...kinds: readonly FaultKind[]): boolean {
    return kinds.some((kind) => this.#present.has(kind));
  }

  had(...kinds: readonly FaultKind[]): boolean {
    return kinds.some((kind) => this.#faults.has(kind));
  }

  /** The same of what the domain reports because no caller can be told. */
  objectionToReport(what: string, error: unknown): string | undefined {
    if (this.#faults.size > 0 || this.stopping) return undefined;
    return `reported without a reason: ${what}: ${error instanceof Error ? error.message : String(error)}`;
  }

  /** Why the error must not be; undefined if it may. */
  objection(what: string, error: unknown): string | undefined {
    if (!(error instanceof TidemarkError))
      return `${what} threw ${error instanceof Error ? error.stack : String(error)}`;
    if (REFUSALS.has(error.code) || (this.stopping && error.code === "STOPPING")) return undefined;
    // What a failed commit was to store may show later: then the volume has come, or gone, for another request.
    const moved = /^(register|take-out) of .*, again$/.test(what) && /^VOLUME_(EXISTS|NOT_FOUND)$/.test(error.code);
    if (moved && this.had("store-failure")) return undefined;
    for (const kind of this.#faults) if (EXPLAINED[kind].has(error.code)) return undefined;
    return `${what} failed with ${error.code}: ${error.message}`;
  }
}
