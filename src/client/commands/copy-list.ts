/** `tidemark copy list [--all] [--volume NAME]` */
import { Copy, CopyServiceClient } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { COPY_COLUMNS } from "../display/words.ts";

export async function copyList(
  context: CommandContext,
  options: { readonly all?: boolean; readonly volume?: string },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const filter = { volume: options.volume ?? "", includeEnded: options.all === true };
  const rows: Copy[] = [];
  const fetch = (at: { pageSize: number; pageToken: string }) =>
    connection.unary(client, client.listCopies, { ...at, ...filter });
  for await (const page of connection.pages(fetch)) {
    if (context.output.json) for (const copy of page.copies) context.output.message(Copy, copy);
    else rows.push(...page.copies);
  }
  if (!context.output.json) context.output.table(COPY_COLUMNS, rows);
}
