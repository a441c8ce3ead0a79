/** `tidemark volume create --size SIZE --path PATH` */
import { resolve } from "node:path";
import { CreateVolumeResponse, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";
import { parseSize } from "../display/units.ts";
import { type LuOptions, parseLu } from "./volume-register.ts";

export async function volumeCreate(
  context: CommandContext,
  options: LuOptions & { readonly size: string; readonly path: string },
): Promise<void> {
  const sizeBytes = parseSize(options.size);
  const lu = parseLu(options.lu);
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const response = await connection.unary(client, client.createVolume, {
    path: resolve(options.path),
    sizeBytes,
    lu,
    label: options.label ?? "",
    requestId: context.requestId,
  });
  if (context.output.json) context.output.message(CreateVolumeResponse, response);
  else context.output.line(response.volume?.name ?? "");
}
