/** `tidemark volume resize NAME [--size SIZE] [--allow-shrink]` */
import { ResizeVolumeResponse, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";
import { formatSizeExact, parseSize } from "../display/units.ts";
import { usageError } from "../failure.ts";

/** Without a size the volume takes over the present size of its file or device. Prints name and new size. */
export async function volumeResize(
  context: CommandContext,
  name: string,
  options: { readonly size?: string; readonly allowShrink?: boolean },
): Promise<void> {
  const sizeBytes = options.size === undefined ? 0n : parseSize(options.size);
  if (options.size !== undefined && sizeBytes === 0n) {
    throw usageError("a volume cannot have 0 bytes", "leave --size out to take over the size of the file or device");
  }
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const response = await connection.unary(client, client.resizeVolume, {
    name,
    sizeBytes,
    allowShrink: options.allowShrink === true,
    requestId: context.requestId,
  });
  if (context.output.json) context.output.message(ResizeVolumeResponse, response);
  else context.output.line(`${response.volume?.name} ${formatSizeExact(response.volume?.sizeBytes ?? 0n)}`);
}
