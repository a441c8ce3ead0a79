/** DataService: converts, and calls domain/data.ts. */
import type { handleClientStreamingCall, ServerReadableStream } from "@grpc/grpc-js";
import { TidemarkError } from "../../base/errors.ts";
import type { Writer } from "../../domain/data.ts";
import {
  type DataServiceServer,
  DataServiceService,
  type ListAllocatedExtentsRequest,
  type ListAllocatedExtentsResponse,
  type ListChangedExtentsRequest,
  type ListChangedExtentsResponse,
  type ReadBlocksRequest,
  type WriteBlocksRequest,
  type WriteBlocksResponse,
} from "../../gen/tidemark/v1/data.ts";
import { exactNumber, toExtents } from "../convert.ts";
import { serverStream } from "../handlers.ts";
import { requireReadable } from "../readable-request.ts";
import { toRpcError } from "../rich-errors.ts";
import type { ServiceParts } from "./parts.ts";
import { type OutgoingBlocks, serializeBlocks } from "./read-blocks-bytes.ts";

/** The generated service with a serialiser of our own for volume bytes. */
export const DATA_METHODS = {
  ...DataServiceService,
  readBlocks: { ...DataServiceService.readBlocks, responseSerialize: serializeBlocks },
};

function rangeOf(request: { readonly name: string; readonly offsetBytes: bigint; readonly lengthBytes: bigint }) {
  return {
    name: request.name,
    offsetBytes: exactNumber(request.offsetBytes, "offset_bytes"),
    lengthBytes: exactNumber(request.lengthBytes, "length_bytes"),
  };
}

export function dataService(parts: ServiceParts): DataServiceServer {
  const { log } = parts;
  const { data } = parts.box;
  return {
    readBlocks: serverStream(log, async function* (request: ReadBlocksRequest): AsyncGenerator<OutgoingBlocks> {
      for await (const chunk of data.read(rangeOf(request))) {
        const { buffer, byteOffset, byteLength } = chunk.data;
        const data = Buffer.from(buffer, byteOffset, byteLength);
        yield { offsetBytes: BigInt(chunk.offsetBytes), data, release: () => chunk.release() };
      }
    }),
    writeBlocks: writeBlocks(parts),
    listChangedExtents: serverStream(
      log,
      async function* (request: ListChangedExtentsRequest): AsyncGenerator<ListChangedExtentsResponse> {
        const sinceEpoch = exactNumber(request.sinceEpoch, "since_epoch");
        const untilEpoch = exactNumber(request.untilEpoch, "until_epoch");
        for await (const extents of data.changed({ ...rangeOf(request), sinceEpoch, untilEpoch }))
          yield { extents: toExtents(extents) };
      },
    ),
    listAllocatedExtents: serverStream(
      log,
      async function* (request: ListAllocatedExtentsRequest): AsyncGenerator<ListAllocatedExtentsResponse> {
        for await (const extents of data.allocated(rangeOf(request))) yield { extents: toExtents(extents) };
      },
    ),
  };
}

function writeBlocks({ box, log }: ServiceParts): handleClientStreamingCall<WriteBlocksRequest, WriteBlocksResponse> {
  return (call, callback) => {
    receive(call, (name) => box.data.openWriter(name)).then(
      (bytesWritten) => callback(null, { bytesWritten: BigInt(bytesWritten) }),
      (error: unknown) => {
        if (!call.cancelled) callback(toRpcError(error, log));
      },
    );
  };
}

async function receive(
  call: ServerReadableStream<WriteBlocksRequest, WriteBlocksResponse>,
  open: (name: string) => Promise<Writer>,
): Promise<number> {
  let writer: Writer | undefined;
  let name = "";
  let durability: "acknowledged" | "durable" = "acknowledged";
  // Ending the loop early must not destroy the call: the error still has to be sent (toolchain pitfall 3).
  const messages = call.iterator({ destroyOnReturn: false }) as AsyncIterable<WriteBlocksRequest>;
  for await (const given of messages) {
    const message = requireReadable(given);
    if (writer === undefined) {
      name = message.name;
      writer = await open(name);
    } else if (message.name !== "" && message.name !== name) throw nameChanged(name, message.name);
    if (message.flush) durability = "durable";
    await writer.write(exactNumber(message.offsetBytes, "offset_bytes"), message.data);
  }
  if (call.cancelled) throw new TidemarkError("STOPPING", { message: "the call was cancelled" });
  if (writer === undefined)
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: "no message was sent",
      hint: "send at least one message, which names the volume",
      field: "name",
    });
  return writer.finish({ durability });
}

function nameChanged(first: string, now: string): TidemarkError {
  return new TidemarkError("INVALID_ARGUMENT", {
    message: `the first message names ${JSON.stringify(first)}, a later one ${JSON.stringify(now.slice(0, 100))}`,
    hint: "use one call for each volume",
    field: "name",
  });
}
