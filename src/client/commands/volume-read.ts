/** `tidemark volume read NAME [--offset SIZE] [--length SIZE]` */
import { once } from "node:events";
import { DataServiceClient } from "../../gen/tidemark/v1/data.ts";
import type { CommandContext } from "../context.ts";
import { parseSize } from "../display/units.ts";
import { Failure, usageError } from "../failure.ts";

/** Bytes go to standard output as they come; reading stops while nobody takes them. */
export async function volumeRead(
  context: CommandContext,
  name: string,
  options: { readonly offset: string; readonly length?: string },
): Promise<void> {
  if (process.stdout.isTTY === true) throw usageError("bytes would go to the terminal", "redirect the output: > FILE");
  if (context.output.json) throw usageError("bytes have no JSON form", "leave --json out");
  const offsetBytes = parseSize(options.offset, "an offset");
  const lengthBytes = options.length === undefined ? 0n : parseSize(options.length, "a length");
  if (options.length !== undefined && lengthBytes === 0n) return;
  const connection = await context.connect();
  const client = connection.client(DataServiceClient);
  let nextBytes = offsetBytes;
  const request = { name, offsetBytes, lengthBytes };
  for await (const piece of connection.serverStream(client, client.readBlocks, request)) {
    if (piece.offsetBytes !== nextBytes) {
      throw new Failure("INTERNAL", `the server sent byte ${piece.offsetBytes} where byte ${nextBytes} was due`);
    }
    nextBytes += BigInt(piece.data.length);
    if (!process.stdout.write(piece.data)) await once(process.stdout, "drain", { signal: context.signal });
  }
  if (options.length !== undefined && nextBytes !== offsetBytes + lengthBytes) {
    throw new Failure("INTERNAL", `the server sent ${nextBytes - offsetBytes} of ${lengthBytes} bytes`);
  }
}
