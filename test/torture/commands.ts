/** The commands of the API that torture gives, and copies as the oracle knows them. */
import type { ServiceError } from "@grpc/grpc-js";
import { type Copy, CopyKind, CopyPhase, copyReasonToJSON } from "../../src/gen/tidemark/v1/copy.ts";
import { type Clients, call, refusalOf } from "../server/fixture.ts";
import type { CopyFacts, Kind } from "./copy-book.ts";
import { withPatience } from "./killable-box.ts";
import { Violation } from "./violations.ts";

const PHASES: Readonly<Partial<Record<CopyPhase, CopyFacts["phase"]>>> = {
  [CopyPhase.COPYING]: "copying",
  [CopyPhase.TRACKING]: "tracking",
  [CopyPhase.FAILED]: "failed",
  [CopyPhase.COMPLETED]: "completed",
  [CopyPhase.CANCELLED]: "cancelled",
};

/** Answers that mean: not now, and nothing has happened. */
const REFUSALS = new Set([
  "SOURCE_IS_DESTINATION",
  "DESTINATION_TOO_SMALL",
  "DESTINATION_IN_USE",
  "DESTINATION_COPYING",
  "COPY_CYCLE",
  "REVERSE_NOT_OPC",
  "COPY_STATE",
  "NOT_TRACKING",
  "SESSION_NOT_FOUND",
  "BARRIER_TIMEOUT",
]);

/** UNAVAILABLE and CANCELLED: the daemon is gone. */
const GONE_STATUSES = [1, 14];

export type Answer<T> =
  | { readonly type: "answer"; readonly value: T }
  | { readonly type: "refusal"; readonly reason: string }
  /** The daemon was killed, or stopped, before it answered. */
  | { readonly type: "lost" };

/** Sends a command. An answer that a correct box never gives is a violation. */
export async function ask<T>(what: string, command: Promise<T>): Promise<Answer<T>> {
  try {
    return { type: "answer", value: await withPatience(command, what) };
  } catch (error) {
    const service = error as ServiceError;
    if (service.metadata === undefined)
      throw new Violation(`${what}: ${error instanceof Error ? error.message : String(error)}`);
    const { reason } = refusalOf(service);
    if (REFUSALS.has(reason)) return { type: "refusal", reason };
    if (reason === "STOPPING") return { type: "lost" };
    if (reason === "" && GONE_STATUSES.includes(service.code)) return { type: "lost" };
    throw new Violation(`${what}: ${reason || service.code} ${service.details}`);
  }
}

export function factsOf(copy: Copy): CopyFacts {
  const phase = PHASES[copy.phase];
  if (phase === undefined) throw new Violation(`${copy.id} is in phase ${copy.phase}`);
  const { id, source, destination, tracking, failureMessage } = copy;
  return {
    ...{ id, source, destination, phase, tracking, failureMessage },
    kind: copy.kind === CopyKind.OPC ? "opc" : "quickopc",
    generation: Number(copy.generation),
    reason: copyReasonToJSON(copy.reason).replace("COPY_REASON_", ""),
    plannedGranules: Number(copy.plannedGranules),
    pendingGranules: Number(copy.pendingGranules),
  };
}

export interface PairNames {
  readonly source: string;
  readonly destination: string;
}

export async function start(
  clients: Clients,
  pairs: readonly PairNames[],
  kind: Kind,
  pace: number,
): Promise<CopyFacts[]> {
  const request = { pairs: [...pairs], kind: kind === "opc" ? CopyKind.OPC : CopyKind.QUICKOPC, pace, requestId: "" };
  return (await call(clients.copies, "startCopy", request)).copies.map(factsOf);
}

export async function restart(clients: Clients, ids: readonly string[]): Promise<CopyFacts[]> {
  return (await call(clients.copies, "restartCopy", { ids: [...ids], requestId: "" })).copies.map(factsOf);
}

export async function cancel(clients: Clients, id: string): Promise<{ destinationUsable: boolean }> {
  return call(clients.copies, "cancelCopy", { id, requestId: "" });
}

export async function stopTracking(clients: Clients, id: string): Promise<CopyFacts> {
  const { copy } = await call(clients.copies, "stopTracking", { id, requestId: "" });
  if (copy === undefined) throw new Violation(`no copy in the answer to stop-tracking of ${id}`);
  return factsOf(copy);
}

export async function setPace(clients: Clients, id: string, pace: number): Promise<void> {
  await call(clients.copies, "setCopyPace", { id, pace, requestId: "" });
}

/** Copies that live, and those that have ended and are remembered. */
export async function listCopies(clients: Clients): Promise<{ live: CopyFacts[]; ended: CopyFacts[] }> {
  const facts: CopyFacts[] = [];
  for (let pageToken = ""; ; ) {
    const request = { pageSize: 1000, pageToken, volume: "", includeEnded: true };
    const page = await call(clients.copies, "listCopies", request);
    facts.push(...page.copies.map(factsOf));
    pageToken = page.nextPageToken;
    if (pageToken === "") break;
  }
  const isLive = ({ phase }: CopyFacts) => phase !== "completed" && phase !== "cancelled";
  return { live: facts.filter(isLive), ended: facts.filter((copy) => !isLive(copy)) };
}
