/** `tidemark copy watch ID [--keep-following]` */
import { CopyPhase, CopyServiceClient, WatchCopyResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { progressText, RateWindow, totalsOf } from "../display/progress.ts";
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
  const rate = new RateWindow(() => performance.now());
  for await (const seen of connection.serverStream(client, client.watchCopy, request)) {
    if (context.output.json) context.output.message(WatchCopyResponse, seen);
    const copy = seen.copy;
    if (copy === undefined) continue;
    const totals = totalsOf([copy]);
    rate.add(totals.doneBytes);
    const update = updateCell(copy) === "" ? "" : `, update ${updateCell(copy)}`;
    if (!context.output.json)
      context.output.line(`${id} ${phaseWord(copy)} ${progressText(totals, rate.bytesPerSecond())}${update}`);
    if (copy.phase === CopyPhase.FAILED || copy.phase === CopyPhase.CANCELLED) throw copyFailed(copy);
  }
}
