/**
 * A daemon of its own, as it is built, and the clients of its API.
 *
 * Invariant: it ends with the workspace it belongs to.
 */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type CallOptions, type Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { type Copy, CopyKind, CopyPhase, CopyServiceClient } from "../src/gen/tidemark/v1/copy.ts";
import { DataServiceClient } from "../src/gen/tidemark/v1/data.ts";
import { ExportServiceClient } from "../src/gen/tidemark/v1/export.ts";
import { VolumeServiceClient } from "../src/gen/tidemark/v1/volume.ts";
import { sleep } from "./sizes.ts";
import { stop, type Workspace } from "./workspace.ts";

const PROGRAM = fileURLToPath(new URL("../dist/client/main.js", import.meta.url));
const SERVING = /^tidemark: serving, address=([^,\s]+)\S*, nbd=(\S+), box=/;
const POLL_MS = 4;
const CHANNEL_OPTIONS = {
  "grpc.enable_http_proxy": 0,
  "grpc.max_receive_message_length": 8 << 20,
  "grpc.max_send_message_length": 8 << 20,
};

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => unknown;

export interface CopyTimes {
  /** Until StartCopy had answered. */
  readonly answeredMs: number;
  /** Until nothing was pending. */
  readonly copiedMs: number;
  /** Until the session said it is complete, which it says when the destination is durable. */
  readonly completeMs: number;
  readonly copy: Copy;
}

export class Box {
  readonly volumes: VolumeServiceClient;
  readonly exports: ExportServiceClient;
  readonly copies: CopyServiceClient;
  readonly data: DataServiceClient;
  readonly nbdSocket: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, api: string, nbdSocket: string) {
    this.#child = child;
    this.nbdSocket = nbdSocket;
    this.volumes = connect(VolumeServiceClient, api);
    this.exports = connect(ExportServiceClient, api);
    this.copies = connect(CopyServiceClient, api);
    this.data = connect(DataServiceClient, api);
  }

  static async start(work: Workspace, name = "box"): Promise<Box> {
    if (!existsSync(PROGRAM)) throw new Error("the program is not built: npm run build");
    const child = work.spawn(process.execPath, [PROGRAM, "serve", "--data", work.path(name)], "pipe");
    for await (const line of createInterface({ input: child.stdout! })) {
      const match = SERVING.exec(line);
      const socket = /[?&]socket=([^&]+)/.exec(match?.[2] ?? "")?.[1];
      if (match === null || socket === undefined) continue;
      child.stdout!.resume();
      const box = new Box(child, match[1]!, decodeURIComponent(socket));
      work.defer(async () => box.#closeClients());
      return box;
    }
    throw new Error("the daemon ended while starting");
  }

  /** Registers an existing image; its canonical name. */
  async register(path: string): Promise<string> {
    const request = { path, lu: 0, label: "", requestId: "" };
    const { volume } = await call(this.volumes, this.volumes.registerVolume, request);
    return volume!.name;
  }

  /** Makes an empty volume; its canonical name. */
  async create(path: string, sizeBytes: number): Promise<string> {
    const request = { path, sizeBytes: BigInt(sizeBytes), lu: 0, label: "", requestId: "" };
    const { volume } = await call(this.volumes, this.volumes.createVolume, request);
    return volume!.name;
  }

  /** Exports a volume; its NBD URI. */
  async export(name: string): Promise<string> {
    const added = await call(this.exports, this.exports.addExport, { name, readOnly: false, requestId: "" });
    return added.export!.uri;
  }

  async start(pairs: readonly { source: string; destination: string }[], kind: CopyKind, pace = 0): Promise<Copy[]> {
    const request = { pairs: [...pairs], kind, pace, requestId: "" };
    return (await call(this.copies, this.copies.startCopy, request)).copies;
  }

  async restart(ids: readonly string[]): Promise<Copy[]> {
    return (await call(this.copies, this.copies.restartCopy, { ids: [...ids], requestId: "" })).copies;
  }

  async cancel(ids: readonly string[]): Promise<void> {
    for (const id of ids) await call(this.copies, this.copies.cancelCopy, { id, requestId: "" });
  }

  async copy(id: string): Promise<Copy> {
    return (await call(this.copies, this.copies.getCopy, { id })).copy!;
  }

  /** Copies all of a volume, timed. */
  fullCopy(source: string, destination: string): Promise<CopyTimes> {
    return this.timed(async () => (await this.start([{ source, destination }], CopyKind.OPC))[0]!);
  }

  /** Fires one session, and follows it until it copies no more. Throws when it fails. */
  async timed(fire: () => Promise<Copy>): Promise<CopyTimes> {
    const begin = performance.now();
    const { id } = await fire();
    const answeredMs = performance.now() - begin;
    let copiedMs: number | undefined;
    for (;;) {
      const copy = await this.copy(id);
      const nowMs = performance.now() - begin;
      if (copy.pendingGranules === 0n) copiedMs ??= nowMs;
      if (copy.phase === CopyPhase.COMPLETED || copy.phase === CopyPhase.TRACKING) {
        return { answeredMs, copiedMs: copiedMs ?? nowMs, completeMs: nowMs, copy };
      }
      if (copy.phase !== CopyPhase.COPYING) throw new Error(`${id} failed: ${copy.failureMessage}`);
      if (nowMs > 20) await sleep(POLL_MS);
    }
  }

  /** Largest resident memory so far, in bytes. */
  peakMemoryBytes(): number {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, "utf8");
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
  }

  /** Ends the daemon before the workspace does. */
  async stop(): Promise<void> {
    this.#closeClients();
    await stop(this.#child);
  }

  /** `kill -9`; resolves when the process is gone. */
  async kill(): Promise<void> {
    this.#closeClients();
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  #closeClients(): void {
    for (const client of [this.volumes, this.exports, this.copies, this.data]) client.close();
  }
}

export function connect<C>(
  service: new (address: string, creds: ReturnType<typeof credentials.createInsecure>, options: object) => C,
  address: string,
): C {
  return new service(address, credentials.createInsecure(), CHANNEL_OPTIONS);
}

export function call<Request, Response>(
  client: Client,
  method: Unary<Request, Response>,
  request: Request,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method.call(client, request, new Metadata(), {}, (error, response) =>
      error === null ? resolve(response) : reject(error),
    );
  });
}
