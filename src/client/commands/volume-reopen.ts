/** `tidemark volume reopen NAME` */
import { ReopenVolumeResponse, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";

export async function volumeReopen(context: CommandContext, name: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const response = await connection.unary(client, client.reopenVolume, { name, requestId: context.requestId });
  if (context.output.json) context.output.message(ReopenVolumeResponse, response);
  else context.output.line(`${response.volume?.name} is open`);
}
