/**
 * A real daemon as a process of its own, with what the end-to-end tests do to it: gRPC clients, the CLI, NBD URIs,
 * image files, `kill -9`.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { open, readFile } from "node:fs/promises";
import { promisify } from "node:util";
import type { ServiceError } from "@grpc/grpc-js";
import type { ExecutionContext } from "ava";
import type { ErrorCode } from "../../src/base/errors.ts";
import { type Copy, type CopyKind, CopyPhase } from "../../src/gen/tidemark/v1/copy.ts";
import { RealBox } from "../cli/real-box.ts";
import { all, type Clients, call, connect, refusalOf } from "../server/fixture.ts";

export { CopyKind, CopyPhase } from "../../src/gen/tidemark/v1/copy.ts";
export { all, call, connect } from "../server/fixture.ts";

const runFile = promisify(execFile);
const PIECE_BYTES = 1 << 20;
const POLL_MS = 20;
const PATIENCE_MS = 60_000;

export class Daemon {
  readonly box: RealBox;
  clients: Clients;

  private constructor(box: RealBox) {
    this.box = box;
    this.clients = connect(box.address);
  }

  static async start(t: Pick<ExecutionContext, "teardown">): Promise<Daemon> {
    const daemon = new Daemon(await RealBox.start());
    t.teardown(async () => {
      daemon.clients.close();
      await daemon.box.close();
    });
    return daemon;
  }

  /** Another client of its own. */
  connect(t: Pick<ExecutionContext, "teardown">): Clients {
    const clients = connect(this.box.address);
    t.teardown(() => clients.close());
    return clients;
  }

  path(name: string): string {
    return this.box.path(name);
  }

  /** A volume in a file that is made here; its content is random, so that no hole or repetition helps. */
  async volume(label: string, sizeBytes: number, content: "random" | "empty" = "random"): Promise<string> {
    const file = await open(this.path(`${label}.img`), "wx");
    await file.truncate(sizeBytes);
    if (content === "random")
      for (let at = 0; at < sizeBytes; at += PIECE_BYTES)
        await file.write(randomBytes(Math.min(PIECE_BYTES, sizeBytes - at)), 0, null, at);
    await file.close();
    return this.register(label);
  }

  /** Registers the image of this label, made elsewhere. */
  async register(label: string): Promise<string> {
    const request = { path: this.path(`${label}.img`), lu: 0, label, requestId: "" };
    const { volume } = await call(this.clients.volumes, "registerVolume", request);
    if (volume === undefined) throw new Error("no volume in the answer");
    return volume.name;
  }

  /** NBD URI of a volume, exported on first use. */
  async uri(name: string, readOnly = false): Promise<string> {
    const added = await call(this.clients.exports, "addExport", { name, readOnly, requestId: "" }).catch(
      async (error: ServiceError) => {
        if (refusalOf(error).reason !== "EXPORT_EXISTS") throw error;
        return call(this.clients.exports, "getExport", { name });
      },
    );
    return added.export?.uri ?? "";
  }

  async write(name: string, offsetBytes: number, data: Uint8Array): Promise<void> {
    await writeBlocks(this.clients, name, offsetBytes, data);
  }

  async read(name: string, offsetBytes = 0, lengthBytes = 0): Promise<Buffer> {
    const range = { name, offsetBytes: BigInt(offsetBytes), lengthBytes: BigInt(lengthBytes) };
    return Buffer.concat((await all(this.clients.data.readBlocks(range))).map(({ data }) => data));
  }

  /** The image file itself, past the daemon. */
  image(label: string): Promise<Buffer> {
    return readFile(this.path(`${label}.img`));
  }

  async start(source: string, destination: string, kind: CopyKind, pace = 0): Promise<Copy> {
    return startCopy(this.clients, source, destination, kind, pace);
  }

  async restart(id: string): Promise<Copy> {
    const { copies } = await call(this.clients.copies, "restartCopy", { ids: [id], requestId: "" });
    return only(copies);
  }

  async copy(id: string): Promise<Copy> {
    const { copy } = await call(this.clients.copies, "getCopy", { id });
    if (copy === undefined) throw new Error("no copy in the answer");
    return copy;
  }

  async copies(): Promise<Copy[]> {
    const request = { pageSize: 0, pageToken: "", volume: "", includeEnded: false };
    return (await call(this.clients.copies, "listCopies", request)).copies;
  }

  /** Until the copy does not copy any more; how it is then. */
  async copied(id: string): Promise<Copy> {
    for (let waitedMs = 0; waitedMs < PATIENCE_MS; waitedMs += POLL_MS) {
      const copy = await this.copy(id);
      if (copy.phase !== CopyPhase.COPYING) return copy;
      await pause(POLL_MS);
    }
    throw new Error(`${id} is still copying`);
  }

  /** `kill -9`, then a new start on the same directory. */
  async killAndServe(): Promise<void> {
    await this.box.kill();
    await this.serveAgain();
  }

  /** A clean stop, then a new start on the same directory. */
  async restartDaemon(): Promise<void> {
    await this.box.stop();
    await this.serveAgain();
  }

  /** After `box.kill`. */
  async serveAgain(user: "self" | "nobody" = "self"): Promise<void> {
    this.clients.close();
    await this.box.serve(user);
    this.clients = connect(this.box.address);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export async function startCopy(
  clients: Clients,
  source: string,
  destination: string,
  kind: CopyKind,
  pace = 0,
): Promise<Copy> {
  const request = { pairs: [{ source, destination }], kind, pace, requestId: "" };
  return only((await call(clients.copies, "startCopy", request)).copies);
}

/** Acknowledged when it resolves. */
export function writeBlocks(clients: Clients, name: string, offsetBytes: number, data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    const stream = clients.data.writeBlocks((error) => (error === null ? resolve() : reject(error)));
    stream.on("error", () => undefined); // the callback tells
    for (let at = 0; at < data.length; at += PIECE_BYTES) {
      const piece = Buffer.from(data.subarray(at, at + PIECE_BYTES));
      stream.write({ name, offsetBytes: BigInt(offsetBytes + at), data: piece, flush: false });
    }
    stream.end();
  });
}

function only(copies: readonly Copy[]): Copy {
  const [copy] = copies;
  if (copy === undefined || copies.length !== 1) throw new Error(`${copies.length} copies in the answer`);
  return copy;
}

/** Runs a program that must succeed; what it printed. */
export async function program(name: string, ...args: string[]): Promise<string> {
  try {
    return (await runFile(name, args, { maxBuffer: 64 << 20 })).stdout;
  } catch (cause) {
    const { stderr, stdout } = cause as { stderr?: string; stdout?: string };
    throw new Error(`${name} ${args.join(" ")}: ${stderr ?? ""}${stdout ?? ""}`, { cause });
  }
}

/** The code a refused call ends with; anything else is a failure. */
export function codeOf(error: unknown): ErrorCode | string {
  const service = error as ServiceError;
  if (service.metadata === undefined) throw error;
  return refusalOf(service).reason;
}

/** Compares without printing megabytes. */
export function sameBytes(t: ExecutionContext, actual: Buffer, wanted: Buffer, what: string): void {
  if (actual.equals(wanted)) return void t.pass();
  let at = 0;
  while (actual[at] === wanted[at] && at < Math.min(actual.length, wanted.length)) at++;
  t.fail(`${what}: byte ${at} (granule ${Math.floor(at / 8192)}) differs; lengths ${actual.length}, ${wanted.length}`);
}
