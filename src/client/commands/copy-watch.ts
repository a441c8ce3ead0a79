/** `tidemark copy watch ID [--keep-following]` */
import { CopyPhase, CopyServiceClient, WatchCopyResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { progressText, totalsOf } from "../display/progress.ts";
import { phaseWord, updateCell } from "../display/words.ts";
import { copyFailed } from "./copy-wait.ts";

/** A line for each message; a copy that fails while it is watched makes exit code 7. */
export async function copyWatch(
  context: CommandContext,
  id: string,
  options: { readonly keepFollowing?: boolean },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const request = { id, keepFollowing: options.keepFollowing === true };
  let rateBase: { ms: number; bytes: bigint } | undefined;
  for await (const seen of connection.serverStream(client, client.watchCopy, request)) {
    if (context.output.json) context.output.message(WatchCopyResponse, seen);
    const copy = seen.copy;
    if (copy === undefined) continue;
    const totals = totalsOf([copy]);
    const now = { ms: performance.now(), bytes: totals.doneBytes };
    const elapsedMs = rateBase === undefined ? 0 : now.ms - rateBase.ms;
    const rate = rateBase === undefined || elapsedMs < 1 ? 0 : (Number(now.bytes - rateBase.bytes) * 1000) / elapsedMs;
    rateBase = now;
    const update = updateCell(copy) === "" ? "" : `, update ${updateCell(copy)}`;
    if (!context.output.json) context.output.line(`${id} ${phaseWord(copy)} ${progressText(totals, rate)}${update}`);
    if (copy.phase === CopyPhase.FAILED || copy.phase === CopyPhase.CANCELLED) throw copyFailed(copy);
  }
}
