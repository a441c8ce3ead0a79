/** A server over targets in memory, for one test; everything is taken down when the test ends. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { systemClock } from "../../src/base/clock.ts";
import type { Clock } from "../../src/base/ports.ts";
import type { Transport } from "../../src/engine/nbd/channel.ts";
import { NbdServer } from "../../src/engine/nbd/server.ts";
import { Exports, MemoryTarget } from "./memory-target.ts";

export interface Lab {
  readonly server: NbdServer;
  readonly exports: Exports;
  /** The target behind export `x`. */
  readonly target: MemoryTarget;
  readonly directory: string;
  /** URI of the server on a unix socket. */
  readonly base: string;
  readonly events: string[];
}

export interface LabOptions {
  readonly sizeBytes?: number;
  readonly transport?: Transport;
  readonly clock?: Clock;
  readonly memoryBytes?: number;
}

/** A directory that is removed at the end of the test. */
export function temporaryDirectory(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-nbd-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export async function startLab(t: ExecutionContext, options: LabOptions = {}): Promise<Lab> {
  const directory = temporaryDirectory(t);
  const exports = new Exports();
  const target = new MemoryTarget(options.sizeBytes ?? 1024 * 1024);
  exports.targets.set("x", target);
  const events: string[] = [];
  const server = new NbdServer({
    exports,
    clock: options.clock ?? systemClock,
    onConnect: (name, peer) => events.push(`connect ${name} ${peer}`),
    onDisconnect: (name, peer) => events.push(`disconnect ${name} ${peer}`),
    ...(options.transport === undefined ? {} : { transport: options.transport }),
    ...(options.memoryBytes === undefined ? {} : { memoryBytes: options.memoryBytes }),
  });
  const base = await server.listen(`unix:${join(directory, "nbd.sock")}`);
  t.teardown(async () => {
    target.letAllGo();
    await server.close({ graceMs: 0 });
  });
  return { server, exports, target, directory, base, events };
}

/** Bytes that differ from place to place, so that a shifted or swapped block is noticed. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

/** Waits, turn by turn of the event loop, until something holds that a client cannot see. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}
