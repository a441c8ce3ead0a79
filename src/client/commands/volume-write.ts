/** `tidemark volume write NAME [--offset SIZE]` */
import { RPC_CHUNK_BYTES } from "../../base/limits.ts";
import { DataServiceClient, type WriteBlocksRequest, WriteBlocksResponse } from "../../gen/tidemark/v1/data.ts";
import type { CommandContext } from "../context.ts";
import { formatSizeExact, parseSize } from "../display/units.ts";
import { usageError } from "../failure.ts";

/** Sends standard input; the answer comes when all of it is durable. */
export async function volumeWrite(
  context: CommandContext,
  name: string,
  options: { readonly offset: string },
): Promise<void> {
  const offsetBytes = parseSize(options.offset, "an offset");
  if (process.stdin.isTTY === true) throw usageError("there is nothing to write", "redirect the input: < FILE");
  const connection = await context.connect();
  const client = connection.client(DataServiceClient);
  const response = await connection.clientStream(client, client.writeBlocks, requests(name, offsetBytes));
  if (context.output.json) context.output.message(WriteBlocksResponse, response);
  else context.output.line(`${formatSizeExact(response.bytesWritten)} written`);
}

async function* requests(name: string, offsetBytes: bigint): AsyncGenerator<WriteBlocksRequest> {
  let nextBytes = offsetBytes;
  // The first message carries no data: the name is checked before any input is read.
  yield { name, offsetBytes: nextBytes, data: Buffer.alloc(0), flush: true };
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += RPC_CHUNK_BYTES) {
      const data = chunk.subarray(at, at + RPC_CHUNK_BYTES);
      yield { name, offsetBytes: nextBytes, data, flush: true };
      nextBytes += BigInt(data.length);
    }
  }
}
