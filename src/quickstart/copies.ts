/** The calls of the quickstart: what any gRPC client could do, through the command line's connection. */
import type { Connection } from "../client/connection.ts";
import { type Copy, type CopyKind, CopyPhase, CopyReason, CopyServiceClient } from "../gen/tidemark/v1/copy.ts";
import { ExportServiceClient } from "../gen/tidemark/v1/export.ts";
import { VolumeServiceClient } from "../gen/tidemark/v1/volume.ts";
import { QuickstartFailure } from "./failure.ts";

export async function registerVolume(connection: Connection, path: string, label: string): Promise<string> {
  const client = connection.client(VolumeServiceClient);
  const request = { path, lu: 0, label, requestId: "" };
  const { volume } = await connection.unary(client, client.registerVolume, request);
  return volume?.name ?? "";
}

export async function createVolume(
  connection: Connection,
  { path, sizeBytes, label }: { path: string; sizeBytes: number; label: string },
): Promise<string> {
  const client = connection.client(VolumeServiceClient);
  const request = { path, sizeBytes: BigInt(sizeBytes), lu: 0, label, requestId: "" };
  const { volume } = await connection.unary(client, client.createVolume, request);
  return volume?.name ?? "";
}

/** Returns the NBD URI. */
export async function addExport(connection: Connection, name: string, access: "writable" | "read-only") {
  const client = connection.client(ExportServiceClient);
  const request = { name, readOnly: access === "read-only", requestId: "" };
  const answer = await connection.unary(client, client.addExport, request);
  return answer.export?.uri ?? "";
}

export async function startCopy(
  connection: Connection,
  { source, destination, kind }: { source: string; destination: string; kind: CopyKind },
): Promise<Copy> {
  const client = connection.client(CopyServiceClient);
  const request = { pairs: [{ source, destination }], kind, pace: 0, requestId: "" };
  const { copies } = await connection.unary(client, client.startCopy, request);
  const [copy] = copies;
  if (copy === undefined) throw new QuickstartFailure("the box started no copy", "please report this");
  return copy;
}

/** The session once everything is copied: a QuickOPC then tracks, an OPC has ended. Throws when it failed. */
export async function finishedCopy(connection: Connection, id: string): Promise<Copy> {
  const client = connection.client(CopyServiceClient);
  for await (const { copy } of connection.serverStream(client, client.watchCopy, { id, keepFollowing: false })) {
    if (copy === undefined || copy.phase === CopyPhase.COPYING) continue;
    if (copy.phase === CopyPhase.TRACKING || copy.phase === CopyPhase.COMPLETED) return copy;
    throw new QuickstartFailure(`copy ${id} failed: ${copy.failureMessage}`, "look at the box's log");
  }
  const { copy } = await connection.unary(client, client.getCopy, { id });
  if (copy !== undefined && copy.phase !== CopyPhase.COPYING) return copy;
  throw new QuickstartFailure(`the box stopped telling about copy ${id}`, "look at the box's log");
}

/** `FIRST_COPY`, as the contract spells it. */
export function reasonName(reason: CopyReason): string {
  return Object.entries(CopyReason).find(([, value]) => value === reason)?.[0] ?? "UNKNOWN";
}
