/** CopyService: converts, and calls domain/copies.ts and domain/watches.ts. */
import type { EndedSession, SessionStatus } from "../../domain/copies.ts";
import {
  type CopyServiceServer,
  CopyServiceService as methods,
  type WatchCopyRequest,
  type WatchCopyResponse,
} from "../../gen/tidemark/v1/copy.ts";
import { copyKind, toCopy, toPlan } from "../convert.ts";
import { mutation, serverStream, unary } from "../handlers.ts";
import type { ServiceParts } from "./parts.ts";

export function copyService(parts: ServiceParts): CopyServiceServer {
  const { log } = parts;
  const { copies, watches } = parts.box;
  return {
    startCopy: mutation(
      parts,
      methods.startCopy,
      async ({ pairs, kind, pace }, record, intent) =>
        copies.start({ pairs, kind: copyKind(kind), pace }, record, intent),
      (sessions: readonly SessionStatus[]) => ({ copies: sessions.map(toCopy) }),
    ),
    restartCopy: mutation(
      parts,
      methods.restartCopy,
      ({ ids }, record, intent) => copies.restart(ids, record, intent),
      (sessions: readonly SessionStatus[]) => ({ copies: sessions.map(toCopy) }),
    ),
    cancelCopy: mutation(
      parts,
      methods.cancelCopy,
      async ({ id }, record, intent) => copies.cancel(id, record, intent),
      ({ session, destinationUsable }: EndedSession) => ({ copy: toCopy(session), destinationUsable }),
    ),
    stopTracking: mutation(
      parts,
      methods.stopTracking,
      async ({ id }, record, intent) => copies.stopTracking(id, record, intent),
      (session: SessionStatus) => ({ copy: toCopy(session) }),
    ),
    setCopyPace: mutation(
      parts,
      methods.setCopyPace,
      async ({ id, pace }, record) => copies.setPace(id, pace, record),
      (session: SessionStatus) => ({ copy: toCopy(session) }),
    ),
    getCopy: unary(log, async ({ id }) => ({ copy: toCopy(await copies.get(id)) })),
    listCopies: unary(log, async ({ volume, includeEnded, ...request }) => {
      const filter = { volume, ended: includeEnded ? "include" : "leave-out" } as const;
      const { items, nextPageToken } = await copies.list(filter, request);
      return { copies: items.map(toCopy), nextPageToken };
    }),
    explainCopy: unary(log, async ({ source, destination, kind }) =>
      toPlan(await copies.explain({ source, destination, kind: copyKind(kind) })),
    ),
    watchCopy: serverStream(
      log,
      async function* (request: WatchCopyRequest, signal): AsyncGenerator<WatchCopyResponse> {
        const until = request.keepFollowing ? "end" : "copied";
        for await (const session of watches.copy(request.id, { until, signal })) yield { copy: toCopy(session) };
      },
    ),
  };
}
