/**
 * Waiting for copies, for `copy start --wait` and `copy restart --wait`.
 *
 * Done means: an OPC has completed, a QuickOPC tracks. A copy that failed or was cancelled meanwhile is an error
 * (exit code 7), told after the others have been waited for.
 */
import { type Copy, CopyPhase, CopyServiceClient } from "../../gen/tidemark/v1/copy.ts";
import type { Connection } from "../connection.ts";
import type { CommandContext } from "../context.ts";
import { Progress } from "../display/progress.ts";
import { isComplete, isCopying } from "../display/words.ts";
import { asFailure, Failure } from "../failure.ts";

/** Final states in the order of `copies`. Throws COPY_FAILED, or why waiting itself was not possible. */
export async function waitForCopies(context: CommandContext, copies: readonly Copy[]): Promise<Copy[]> {
  const connection = await context.connect();
  const progress = new Progress(context.output);
  try {
    for (const copy of copies) progress.update(copy);
    const ended = await Promise.all(copies.map((copy) => waitForCopy(connection, copy, progress)));
    progress.finish();
    for (const copy of ended) if (!isComplete(copy)) throw copyFailed(copy);
    return ended;
  } catch (error) {
    throw goesOn(asFailure(error), copies);
  }
}

async function waitForCopy(connection: Connection, started: Copy, progress: Progress): Promise<Copy> {
  let copy = started;
  if (!isCopying(copy)) return copy;
  const client = connection.client(CopyServiceClient);
  const request = { id: copy.id, keepFollowing: false };
  for await (const seen of connection.serverStream(client, client.watchCopy, request)) {
    if (seen.copy === undefined) continue;
    copy = seen.copy;
    progress.update(copy);
    if (!isCopying(copy)) return copy;
  }
  const { copy: last = copy } = await connection.unary(client, client.getCopy, { id: copy.id });
  if (isCopying(last)) {
    throw new Failure("UNAVAILABLE", `the server stopped telling about ${copy.id}`, { reason: "WATCH_ENDED" });
  }
  return last;
}

/** Why a copy that was waited for is not complete. */
export function copyFailed(copy: Copy): Failure {
  const metadata = { id: copy.id, source: copy.source, destination: copy.destination };
  if (copy.phase === CopyPhase.CANCELLED) {
    const hint = `start it again: tidemark copy start ${copy.source} ${copy.destination}`;
    const message = `${copy.id} was cancelled before it was complete`;
    return new Failure("COPY_FAILED", message, { reason: "COPY_CANCELLED", hint, metadata });
  }
  const hint = `tidemark copy get ${copy.id}; then \`copy restart\` or \`copy cancel\``;
  return new Failure("COPY_FAILED", `${copy.id} failed: ${copy.failureMessage}`, { hint, metadata });
}

/** Whoever stops waiting is told that the copies do not stop. */
function goesOn(failure: Failure, copies: readonly Copy[]): Failure {
  if (failure.code !== "INTERRUPTED" && failure.code !== "DEADLINE_EXCEEDED") return failure;
  const ids = copies.map((copy) => copy.id).join(" ");
  const what = failure.code === "INTERRUPTED" ? "interrupted" : "not complete within the time given";
  const hint = `tidemark copy watch ${copies[0]?.id ?? ""}`;
  return new Failure(
    failure.code,
    `${what}; the copy goes on: ${ids}`,
    { hint, metadata: { ids } },
    { cause: failure },
  );
}
