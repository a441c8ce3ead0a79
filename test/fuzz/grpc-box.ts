/** The box that the gRPC door is fuzzed through: the production daemon, its engine in its thread, and raw calls to it. */
import { symlink, truncate, writeFile } from "node:fs/promises";
import { create, createFileRegistry, type DescMethod, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  type Metadata,
  type ServiceError,
  type StatusObject,
  status,
} from "@grpc/grpc-js";
import { ServerReflectionClient, type ServerReflectionResponse } from "../../src/gen/grpc/reflection/v1/reflection.ts";
import { CopyKind } from "../../src/gen/tidemark/v1/copy.ts";
import { all, call, DaemonFixture } from "../server/fixture.ts";
import { writeBlocks } from "../support/daemon.ts";

const MiB = 1 << 20;
/** The volume of the decent client; cases keep away from it. */
export const GOOD_LABEL = "good";
export const GOOD_NAME = "g1d4";
/** A call that is not over by then hangs: nothing here takes longer, however busy the machine is. */
const PATIENCE_MS = 60_000;
/** A stream that goes on for ever is left after so many messages, or when nothing has come for a while. */
const STREAM_MESSAGES_MAX = 8;
const STREAM_QUIET_MS = 40;

/** How a call ended. */
export interface Ending {
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata | undefined;
  /** We left it ourselves. */
  readonly left: boolean;
}

export class GrpcBox {
  readonly fixture: DaemonFixture;
  readonly methods: ReadonlyMap<string, DescMethod>;
  readonly #client: Client;
  readonly #teardowns: (() => Promise<void>)[];

  private constructor(
    fixture: DaemonFixture,
    client: Client,
    methods: ReadonlyMap<string, DescMethod>,
    teardowns: (() => Promise<void>)[],
  ) {
    this.fixture = fixture;
    this.#client = client;
    this.methods = methods;
    this.#teardowns = teardowns;
  }

  /** Volumes g1d1 (la), g1d2 (lb) and g1d3, a copy c1 that is tracked, an export, and a volume nobody else uses. */
  static async start(): Promise<GrpcBox> {
    const teardowns: (() => Promise<void>)[] = [];
    const fixture = await DaemonFixture.start({ teardown: (end) => teardowns.push(end) });
    await fixture.create("a", MiB, "la");
    await fixture.create("b", MiB, "lb");
    await fixture.create("c", 2 * MiB);
    await fixture.create("good", MiB, GOOD_LABEL);
    await writeBlocks(fixture.clients, "g1d1", 0, Buffer.alloc(MiB, 3));
    const pairs = [{ source: "g1d1", destination: "g1d2" }];
    await call(fixture.clients.copies, "startCopy", { pairs, kind: CopyKind.QUICKOPC, pace: 0, requestId: "" });
    await call(fixture.clients.exports, "addExport", { name: "g1d3", readOnly: false, requestId: "" });
    for (const name of ["new1", "new2"]) {
      await writeFile(fixture.path(`${name}.img`), "");
      await truncate(fixture.path(`${name}.img`), MiB);
    }
    await writeFile(fixture.path("empty.img"), "");
    await writeFile(fixture.path("odd.img"), Buffer.alloc(1000));
    await symlink(fixture.path("a.img"), fixture.path("link"));
    const client = new Client(fixture.address, credentials.createInsecure(), {
      "grpc.max_receive_message_length": 16 * MiB,
      "grpc.max_send_message_length": 64 * MiB,
    });
    return new GrpcBox(fixture, client, await reflected(fixture.address), teardowns);
  }

  /** Sends these bytes as the messages of the call; `cancel`: leaves at once. */
  run(path: string, messages: readonly Buffer[], cancel: "cancel" | "stay"): Promise<Ending> {
    const kind = this.methods.get(path)?.methodKind ?? "unary";
    const options = { deadline: Date.now() + PATIENCE_MS };
    const first = messages[0] ?? Buffer.alloc(0);
    const client = this.#client;
    if (kind === "server_streaming")
      return listened(client.makeServerStreamRequest(path, raw, raw, first, options), path, cancel);
    if (kind === "bidi_streaming") {
      const stream = client.makeBidiStreamRequest(path, raw, raw, options);
      for (const message of messages) stream.write(message);
      stream.end();
      return listened(stream, path, cancel);
    }
    return new Promise((resolve) => {
      const left = cancel === "cancel";
      const answered = (error: ServiceError | null) =>
        error === null
          ? resolve({ code: status.OK, details: "", metadata: undefined, left })
          : resolve({ code: error.code, details: error.details, metadata: error.metadata, left });
      if (kind === "unary") {
        const running = client.makeUnaryRequest(path, raw, raw, first, options, answered);
        if (left) running.cancel();
        return;
      }
      const running = client.makeClientStreamRequest(path, raw, raw, options, answered);
      running.on("error", () => undefined); // the callback tells
      for (const message of messages) running.write(message);
      running.end();
      if (left) running.cancel();
    });
  }

  /** What a decent client sees; throws when it is not as it must be. */
  async good(round: number): Promise<void> {
    const { clients } = this.fixture;
    const data = Buffer.alloc(65_536, round & 0xff);
    const offsetBytes = (round * 8192) % (MiB - data.length);
    await writeBlocks(clients, GOOD_LABEL, offsetBytes, data);
    const range = { name: GOOD_LABEL, offsetBytes: BigInt(offsetBytes), lengthBytes: BigInt(data.length) };
    const read = Buffer.concat((await all(clients.data.readBlocks(range))).map((message) => message.data));
    if (!read.equals(data)) throw new Error("what was written is not what is read");
    const { box } = await call(clients.box, "getBox", {});
    if (box === undefined) throw new Error("no box in the answer");
    await call(clients.copies, "listCopies", { pageSize: 0, pageToken: "", volume: "", includeEnded: true });
  }

  async close(): Promise<void> {
    this.#client.close();
    for (const end of this.#teardowns.splice(0)) await end();
  }
}

/** Takes what comes until the stream ends, or has given enough. */
function listened(
  stream: ClientReadableStream<Buffer> | ClientDuplexStream<Buffer, Buffer>,
  path: string,
  cancel: "cancel" | "stay",
): Promise<Ending> {
  return new Promise((resolve) => {
    let left = false;
    let count = 0;
    let quiet: NodeJS.Timeout | undefined;
    const leave = () => {
      left = true;
      stream.cancel();
    };
    const wait = () => {
      clearTimeout(quiet);
      if (/Watch/.test(path)) quiet = setTimeout(leave, STREAM_QUIET_MS);
    };
    stream.on("data", () => {
      wait();
      if (++count >= STREAM_MESSAGES_MAX) leave();
    });
    stream.on("error", () => undefined); // the status tells
    stream.on("status", ({ code, details, metadata }: StatusObject) => {
      clearTimeout(quiet);
      resolve({ code, details, metadata, left });
    });
    wait();
    if (cancel === "cancel") leave();
  });
}

const raw = (bytes: Buffer): Buffer => bytes;

/** Every method the server says it has, by path, health and reflection included. */
async function reflected(address: string): Promise<Map<string, DescMethod>> {
  const client = new ServerReflectionClient(address, credentials.createInsecure());
  const ask = (request: NonNullable<Parameters<typeof stream.write>[0]["messageRequest"]>) =>
    new Promise<ServerReflectionResponse>((resolve, reject) => {
      stream.once("data", resolve);
      stream.once("error", reject);
      stream.write({ host: "", messageRequest: request });
    });
  const stream = client.serverReflectionInfo();
  try {
    const listed = (await ask({ $case: "listServices", value: "" })).messageResponse;
    if (listed?.$case !== "listServicesResponse") throw new Error("the server lists no services");
    const files = new Map<string, Uint8Array>();
    const names = listed.value.service.map(({ name }) => name);
    for (const value of names) {
      const given = (await ask({ $case: "fileContainingSymbol", value })).messageResponse;
      if (given?.$case !== "fileDescriptorResponse") throw new Error(`the server does not describe ${value}`);
      for (const bytes of given.value.fileDescriptorProto)
        files.set(fromBinary(FileDescriptorProtoSchema, bytes).name, bytes);
    }
    const set = create(FileDescriptorSetSchema, {
      file: inOrder([...files.values()].map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes))),
    });
    const registry = createFileRegistry(set);
    const methods = names.flatMap((name) => registry.getService(name)?.methods ?? []);
    return new Map(methods.map((method) => [`/${method.parent.typeName}/${method.name}`, method]));
  } finally {
    stream.on("error", () => undefined); // cancelling is one
    stream.cancel();
    client.close();
  }
}

/** Files after those they import. */
function inOrder<F extends { readonly name: string; readonly dependency: readonly string[] }>(
  files: readonly F[],
): F[] {
  const ordered: F[] = [];
  const visit = (file: F) => {
    if (ordered.includes(file)) return;
    for (const name of file.dependency) {
      const needed = files.find((other) => other.name === name);
      if (needed !== undefined) visit(needed);
    }
    ordered.push(file);
  };
  for (const file of files) visit(file);
  return ordered;
}
