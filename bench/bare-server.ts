/**
 * The peer of `rpc`: grpc-js and nothing else, in a process of its own. `bare-server.ts SOCKET ANSWER CHUNK STREAM`:
 * unary calls are answered with ANSWER bytes (hexadecimal) as they are, a stream is STREAM bytes in messages of CHUNK.
 */
import { Server, ServerCredentials, type ServerWritableStream, type sendUnaryData } from "@grpc/grpc-js";
import { ReadBlocksResponse } from "../src/gen/tidemark/v1/data.ts";

const [socket, answerHex, chunkText, streamText] = process.argv.slice(2);
const answer = Buffer.from(answerHex!, "hex");
const chunkBytes = Number(chunkText);
const streamBytes = Number(streamText);
const message = Buffer.from(
  ReadBlocksResponse.encode({ offsetBytes: 1n << 30n, data: Buffer.alloc(chunkBytes, 7) }).finish(),
);

const bytes = (value: Buffer) => value;
const form = {
  requestStream: false,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
} as const;
const unary = { ...form, responseStream: false } as const;
const server = new Server({ "grpc.max_send_message_length": 8 << 20 });
server.addService(
  {
    getVolume: { ...unary, path: "/tidemark.v1.VolumeService/GetVolume" },
    getCopy: { ...unary, path: "/tidemark.v1.CopyService/GetCopy" },
    readBlocks: { ...form, responseStream: true, path: "/tidemark.v1.DataService/ReadBlocks" },
  },
  {
    getVolume: (_call: unknown, callback: sendUnaryData<Buffer>) => callback(null, answer),
    getCopy: (_call: unknown, callback: sendUnaryData<Buffer>) => callback(null, answer),
    readBlocks: async (call: ServerWritableStream<Buffer, Buffer>) => {
      for (let sent = 0; sent < streamBytes && !call.cancelled; sent += chunkBytes) {
        if (!call.write(message)) await new Promise((resolve) => call.once("drain", resolve));
      }
      call.end();
    },
  },
);
server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
  process.stdout.write("serving\n");
});
