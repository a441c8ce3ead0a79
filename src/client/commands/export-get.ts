/** `tidemark export get NAME` */
import { ExportServiceClient, GetExportResponse } from "../../gen/tidemark/v1/export.ts";
import type { CommandContext } from "../context.ts";
import { formatSizeExact, formatTime } from "../display/units.ts";

export async function exportGet(context: CommandContext, name: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(ExportServiceClient);
  const response = await connection.unary(client, client.getExport, { name });
  if (context.output.json) return context.output.message(GetExportResponse, response);
  const item = response.export;
  if (item === undefined) return;
  context.output.facts([
    ["name", item.name],
    ["label", item.label],
    ["uri", item.uri],
    ["size", formatSizeExact(item.sizeBytes)],
    ["access", item.readOnly ? "read only" : "read and write"],
    ["clients", String(item.connections)],
    ["added", formatTime(item.createTime)],
  ]);
}
