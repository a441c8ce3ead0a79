/** A real daemon in this process (engine in its thread) and real clients on its unix socket. */
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type CallOptions,
  type ChannelCredentials,
  type ClientUnaryCall,
  credentials,
  type Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import type { ExecutionContext } from "ava";
import { pino } from "pino";
import type { ErrorCode } from "../../src/base/errors.ts";
import { BadRequest, ErrorInfo } from "../../src/gen/google/rpc/error_details.ts";
import { Status } from "../../src/gen/google/rpc/status.ts";
import { BoxServiceClient } from "../../src/gen/tidemark/v1/box.ts";
import { CopyServiceClient } from "../../src/gen/tidemark/v1/copy.ts";
import { DataServiceClient } from "../../src/gen/tidemark/v1/data.ts";
import { ExportServiceClient } from "../../src/gen/tidemark/v1/export.ts";
import { VolumeServiceClient } from "../../src/gen/tidemark/v1/volume.ts";
import { type Daemon, startDaemon } from "../../src/server/daemon.ts";
import { parseOptions } from "../../src/server/options.ts";

export interface Clients {
  readonly box: BoxServiceClient;
  readonly volumes: VolumeServiceClient;
  readonly exports: ExportServiceClient;
  readonly copies: CopyServiceClient;
  readonly data: DataServiceClient;
  close(): void;
}

type ClientClass<C> = new (address: string, credentials: ChannelCredentials) => C;

export function connect(address: string): Clients {
  const open: { close(): void }[] = [];
  const make = <C extends { close(): void }>(Client: ClientClass<C>): C => {
    const client = new Client(address, credentials.createInsecure());
    open.push(client);
    return client;
  };
  return {
    box: make(BoxServiceClient),
    volumes: make(VolumeServiceClient),
    exports: make(ExportServiceClient),
    copies: make(CopyServiceClient),
    data: make(DataServiceClient),
    close() {
      for (const client of open) client.close();
    },
  };
}

export class DaemonFixture {
  readonly directory: string;
  readonly logged: string[] = [];
  daemon!: Daemon;
  clients!: Clients;
  readonly #arguments: readonly string[];

  private constructor(directory: string, args: readonly string[]) {
    this.directory = directory;
    this.#arguments = args;
  }

  static async start(
    t: { teardown(end: () => Promise<void>): unknown },
    args: readonly string[] = [],
  ): Promise<DaemonFixture> {
    const directory = await realpath(await mkdtemp(join(tmpdir(), "tidemark-server-")));
    const fixture = new DaemonFixture(directory, args);
    t.teardown(async () => {
      await fixture.stop();
      await rm(directory, { recursive: true, force: true });
    });
    await fixture.start();
    return fixture;
  }

  get data(): string {
    return join(this.directory, "data");
  }

  get address(): string {
    return this.daemon.addresses[0] ?? "";
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async start(): Promise<void> {
    const options = parseOptions(["serve", "--data", this.data, ...this.#arguments], {});
    if (options === "help") throw new Error("no options");
    const log = pino({ level: "error" }, { write: (line: string) => this.logged.push(line) });
    const onEngineLost = () => {
      throw new Error("the engine was lost");
    };
    this.daemon = await startDaemon(options, { log, interceptors: [], onEngineLost });
    this.clients = connect(this.address);
  }

  async stop(): Promise<void> {
    this.clients?.close();
    await this.daemon?.stop();
  }

  async create(name: string, sizeBytes = 1 << 20, label = "") {
    const request = { path: this.path(`${name}.img`), sizeBytes: BigInt(sizeBytes), lu: 0, label, requestId: "" };
    const { volume } = await call(this.clients.volumes, "createVolume", request);
    if (volume === undefined) throw new Error("no volume in the answer");
    return volume;
  }
}

/** Request and response of a generated unary method, from the last of its three forms. */
type Forms<F> = F extends (
  request: infer Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: infer Response) => void,
) => ClientUnaryCall
  ? { request: Request; response: Response }
  : never;

/** A unary call as a promise. */
export function call<C, M extends keyof C>(
  client: C,
  method: M,
  request: Forms<C[M]>["request"],
): Promise<Forms<C[M]>["response"]> {
  type Response = Forms<C[M]>["response"];
  const run = client[method] as (
    request: Forms<C[M]>["request"],
    callback: (error: ServiceError | null, response: Response) => void,
  ) => unknown;
  return new Promise((resolve, reject) => {
    run.call(client, request, (error, response) => (error === null ? resolve(response) : reject(error)));
  });
}

export interface Refusal {
  readonly status: keyof typeof status;
  readonly message: string;
  readonly reason: string;
  readonly domain: string;
  readonly metadata: Record<string, string>;
  readonly field: string | undefined;
}

export function refusalOf(error: { code: number; details: string; metadata: Metadata }): Refusal {
  const raw = error.metadata.get("grpc-status-details-bin")[0];
  const details = Buffer.isBuffer(raw) ? Status.decode(raw).details : [];
  const of = (type: string) => details.find(({ typeUrl }) => typeUrl === `type.googleapis.com/google.rpc.${type}`);
  const info = ErrorInfo.decode(of("ErrorInfo")?.value ?? new Uint8Array());
  const bad = of("BadRequest");
  return {
    status: status[error.code] as keyof typeof status,
    message: error.details,
    reason: info.reason,
    domain: info.domain,
    metadata: info.metadata,
    field: bad === undefined ? undefined : BadRequest.decode(bad.value).fieldViolations[0]?.field,
  };
}

/** What a call that must be refused is refused with. */
export async function refused(
  t: ExecutionContext,
  run: () => Promise<unknown>,
  reason: ErrorCode,
): Promise<Refusal | undefined> {
  const error = await t.throwsAsync(run);
  if (error === undefined) return undefined;
  const refusal = refusalOf(error as ServiceError);
  t.is(refusal.reason, reason, error.message);
  t.is(refusal.domain, "tidemark");
  return refusal;
}

/** All messages of a stream. */
export async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const messages: T[] = [];
  for await (const message of stream) messages.push(message);
  return messages;
}
