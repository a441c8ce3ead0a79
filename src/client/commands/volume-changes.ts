/** `tidemark volume changes NAME --since EPOCH [--until EPOCH]` */
import { DataServiceClient, Extent } from "../../gen/tidemark/v1/data.ts";
import type { CommandContext } from "../context.ts";
import { formatSizeExact, parseUint64 } from "../display/units.ts";

/** Prints `offset length` in bytes for each extent as it arrives; the total goes to standard error. */
export async function volumeChanges(
  context: CommandContext,
  name: string,
  options: { readonly since: string; readonly until?: string },
): Promise<void> {
  const sinceEpoch = parseUint64(options.since, "an epoch");
  const untilEpoch = options.until === undefined ? 0n : parseUint64(options.until, "an epoch");
  const connection = await context.connect();
  const client = connection.client(DataServiceClient);
  let totalBytes = 0n;
  let count = 0;
  const request = { name, sinceEpoch, untilEpoch, offsetBytes: 0n, lengthBytes: 0n };
  for await (const piece of connection.serverStream(client, client.listChangedExtents, request)) {
    for (const extent of piece.extents) {
      totalBytes += extent.lengthBytes;
      count++;
      if (context.output.json) context.output.message(Extent, extent);
      else context.output.line(`${extent.offsetBytes} ${extent.lengthBytes}`);
    }
  }
  if (!context.output.json) context.output.line(`total ${formatSizeExact(totalBytes)} in ${count} extents`);
}
