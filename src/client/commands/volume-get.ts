/** `tidemark volume get NAME` */
import { GetVolumeResponse, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";
import { EPOCH_COLUMNS, volumeFacts } from "../display/volume.ts";

export async function volumeGet(context: CommandContext, name: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const response = await connection.unary(client, client.getVolume, { name });
  if (context.output.json) return context.output.message(GetVolumeResponse, response);
  if (response.volume === undefined) return;
  context.output.facts(volumeFacts(response.volume));
  if (response.volume.epochs.length === 0) return;
  context.output.line("");
  context.output.table(EPOCH_COLUMNS, response.volume.epochs);
}
