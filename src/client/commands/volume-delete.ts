/** `tidemark volume delete NAME [--delete-file]` */
import { DeleteVolumeResponse, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";

export async function volumeDelete(
  context: CommandContext,
  name: string,
  options: { readonly deleteFile?: boolean },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const response = await connection.unary(client, client.deleteVolume, {
    name,
    deleteFile: options.deleteFile === true,
    requestId: context.requestId,
  });
  if (context.output.json) context.output.message(DeleteVolumeResponse, response);
  else context.output.line(`${name} deleted`);
}
