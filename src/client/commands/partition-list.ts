/** `tidemark partition list VOLUME`, also `tidemark volume partitions VOLUME` */
import { Partition, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";
import type { Column } from "../display/table.ts";
import { formatSize } from "../display/units.ts";

const COLUMNS: readonly Column<Partition>[] = [
  { title: "NAME", cell: (partition) => partition.name },
  { title: "OFFSET", align: "right", cell: (partition) => String(partition.offsetBytes) },
  { title: "SIZE", align: "right", cell: (partition) => formatSize(partition.sizeBytes) },
  { title: "COPYABLE", cell: (partition) => (partition.copyable ? "yes" : "no") },
  { title: "TYPE", cell: (partition) => partition.type },
  { title: "LABEL", cell: (partition) => partition.label },
];

export async function partitionList(context: CommandContext, volume: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const rows: Partition[] = [];
  const fetch = (at: { pageSize: number; pageToken: string }) =>
    connection.unary(client, client.listPartitions, { volume, ...at });
  for await (const page of connection.pages(fetch)) {
    if (context.output.json) for (const partition of page.partitions) context.output.message(Partition, partition);
    else rows.push(...page.partitions);
  }
  if (!context.output.json) context.output.table(COLUMNS, rows);
}
