/** `tidemark export remove NAME [--force]` */
import { ExportServiceClient, RemoveExportResponse } from "../../gen/tidemark/v1/export.ts";
import type { CommandContext } from "../context.ts";

export async function exportRemove(
  context: CommandContext,
  name: string,
  options: { readonly force?: boolean },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(ExportServiceClient);
  const response = await connection.unary(client, client.removeExport, {
    name,
    force: options.force === true,
    requestId: context.requestId,
  });
  if (context.output.json) context.output.message(RemoveExportResponse, response);
  else context.output.line(`${name} is no longer exported`);
}
