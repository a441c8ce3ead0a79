/** `tidemark export add NAME [--read-only]` */
import { AddExportResponse, ExportServiceClient } from "../../gen/tidemark/v1/export.ts";
import type { CommandContext } from "../context.ts";

/** Prints the NBD URI. */
export async function exportAdd(
  context: CommandContext,
  name: string,
  options: { readonly readOnly?: boolean },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(ExportServiceClient);
  const response = await connection.unary(client, client.addExport, {
    name,
    readOnly: options.readOnly === true,
    requestId: context.requestId,
  });
  if (context.output.json) context.output.message(AddExportResponse, response);
  else context.output.line(response.export?.uri ?? "");
}
