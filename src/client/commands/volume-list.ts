/** `tidemark volume list` */
import { Volume, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";
import type { Column } from "../display/table.ts";
import { formatSize } from "../display/units.ts";
import { backingWord, stateWord } from "../display/volume.ts";

const COLUMNS: readonly Column<Volume>[] = [
  { title: "NAME", cell: (volume) => volume.name },
  { title: "LABEL", cell: (volume) => volume.label },
  { title: "SIZE", align: "right", cell: (volume) => formatSize(volume.sizeBytes) },
  { title: "STATE", cell: (volume) => stateWord(volume.state) },
  { title: "BACKING", cell: (volume) => backingWord(volume.backing) },
  { title: "EPOCHS", align: "right", cell: (volume) => (volume.epochs.length > 0 ? String(volume.epochs.length) : "") },
  { title: "PATH", cell: (volume) => volume.path },
];

export async function volumeList(context: CommandContext): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const rows: Volume[] = [];
  for await (const page of connection.pages((at) => connection.unary(client, client.listVolumes, at))) {
    if (context.output.json) for (const volume of page.volumes) context.output.message(Volume, volume);
    else rows.push(...page.volumes);
  }
  if (!context.output.json) context.output.table(COLUMNS, rows);
}
