/** `tidemark export list` */
import { Export, ExportServiceClient } from "../../gen/tidemark/v1/export.ts";
import type { CommandContext } from "../context.ts";
import type { Column } from "../display/table.ts";
import { formatSize } from "../display/units.ts";

const COLUMNS: readonly Column<Export>[] = [
  { title: "NAME", cell: (item) => item.name },
  { title: "LABEL", cell: (item) => item.label },
  { title: "SIZE", align: "right", cell: (item) => formatSize(item.sizeBytes) },
  { title: "ACCESS", cell: (item) => (item.readOnly ? "read-only" : "read-write") },
  { title: "CLIENTS", align: "right", cell: (item) => String(item.connections) },
  { title: "URI", cell: (item) => item.uri },
];

export async function exportList(context: CommandContext): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(ExportServiceClient);
  const rows: Export[] = [];
  for await (const page of connection.pages((at) => connection.unary(client, client.listExports, at))) {
    if (context.output.json) for (const item of page.exports) context.output.message(Export, item);
    else rows.push(...page.exports);
  }
  if (!context.output.json) context.output.table(COLUMNS, rows);
}
