/** `tidemark copy restart ID [ID ...] [--wait]` */
import { CopyServiceClient, RestartCopyResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { COPY_COLUMNS } from "../display/words.ts";
import { waitForCopies } from "./copy-wait.ts";

export async function copyRestart(
  context: CommandContext,
  ids: readonly string[],
  options: { readonly wait?: boolean },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const request = { ids: [...ids], requestId: context.requestId };
  const started = await connection.unary(client, client.restartCopy, request);
  const copies = options.wait === true ? await waitForCopies(context, started.copies) : started.copies;
  if (context.output.json) context.output.message(RestartCopyResponse, { copies });
  else context.output.table(COPY_COLUMNS, copies);
}
