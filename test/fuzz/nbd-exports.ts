/**
 * The exports that the NBD door is fuzzed through: the production engine and NBD server over memory devices, one export
 * for each way a device can behave.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BlockDevice } from "../../src/base/ports.ts";
import { MiB, TiB } from "../../src/base/units.ts";
import { FaultDevice } from "../../src/engine/device/fault-device.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { pattern } from "../support/copy-lab.ts";
import { EngineLab, LabClock } from "../support/engine-lab.ts";

const PART = { offsetBytes: 12_288, lengthBytes: 99_840 };
const PART_DISK_BYTES = 2 * MiB;

interface ExportFacts {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Requests that are right are answered well. */
  readonly sound: boolean;
}

/** Exports that cases use; `good` belongs to the client that must not notice anything. */
export const EXPORTS: Readonly<Record<string, ExportFacts>> = {
  /** Read-only, with known content. */
  still: { sizeBytes: MiB, readOnly: true, sound: true },
  scratch: { sizeBytes: MiB + 512, readOnly: false, sound: true },
  /** The destination of a copy that is under way. */
  copy: { sizeBytes: MiB, readOnly: false, sound: true },
  /** A piece of a volume; what lies beside it must never change. */
  part: { sizeBytes: PART.lengthBytes, readOnly: false, sound: true },
  /** Its device answers when it is released. */
  slow: { sizeBytes: 40 * MiB, readOnly: false, sound: true },
  /** As large as a volume can be; forgets what is written. */
  huge: { sizeBytes: 64 * TiB, readOnly: false, sound: true },
  /** Parts of its device give errors. */
  bad: { sizeBytes: MiB, readOnly: false, sound: false },
};
export const EXPORT_NAMES = Object.keys(EXPORTS);
export const GOOD_EXPORT = "good";

export function exportSize(name: string): number {
  return EXPORTS[name]?.sizeBytes ?? MiB;
}

/** What the read-only export holds. */
export const STILL_CONTENT: Uint8Array = pattern(MiB, 1);

/** A device that never answers at once and holds calls until they are released; counts what is under way. */
export class SlowDevice {
  readonly device: BlockDevice;
  requestsMax = 0;
  bytesMax = 0;
  #requests = 0;
  #bytes = 0;
  #waiting: (() => void)[] = [];
  #holds = true;

  constructor(memory: MemoryDevice) {
    const held = async (bytes: number, run: () => Promise<void>) => {
      this.#requests++;
      this.#bytes += bytes;
      this.requestsMax = Math.max(this.requestsMax, this.#requests);
      this.bytesMax = Math.max(this.bytesMax, this.#bytes);
      try {
        if (this.#holds) await new Promise<void>((resolve) => this.#waiting.push(resolve));
        await run();
      } finally {
        this.#requests--;
        this.#bytes -= bytes;
      }
    };
    const slow: Partial<BlockDevice> = {
      tryRead: () => false,
      tryWrite: () => false,
      read: (offset, into) => held(into.length, () => memory.read(offset, into)),
      write: (offset, from) => held(from.length, () => memory.write(offset, from)),
      flush: () => held(0, () => memory.flush()),
      zero: (offset, length) => held(0, () => memory.zero(offset, length)),
    };
    this.device = over(memory, slow);
  }

  /** Everything that waits goes on; `keep`: what comes later waits again. */
  release(later: "hold" | "pass"): void {
    this.#holds = later === "hold";
    for (const go of this.#waiting.splice(0)) go();
  }

  forget(): void {
    this.requestsMax = 0;
    this.bytesMax = 0;
  }
}

/** `memory` with some of its methods replaced. */
function over(memory: MemoryDevice, replaced: Partial<BlockDevice>): BlockDevice {
  return new Proxy<BlockDevice>(memory, {
    get: (target, property) => {
      const own = Reflect.get(replaced, property) as unknown;
      if (own !== undefined) return own;
      const value = Reflect.get(target, property, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

export class NbdLab {
  readonly lab: EngineLab;
  readonly slow: SlowDevice;
  readonly base: string;
  readonly #directory: string;
  readonly #partDisk: MemoryDevice;
  readonly #still: MemoryDevice;
  #round = 0;

  private constructor(parts: {
    lab: EngineLab;
    slow: SlowDevice;
    base: string;
    directory: string;
    partDisk: MemoryDevice;
    still: MemoryDevice;
  }) {
    this.lab = parts.lab;
    this.slow = parts.slow;
    this.base = parts.base;
    this.#directory = parts.directory;
    this.#partDisk = parts.partDisk;
    this.#still = parts.still;
  }

  static async start(): Promise<NbdLab> {
    const still = new MemoryDevice(MiB);
    await still.write(0, STILL_CONTENT);
    const partDisk = new MemoryDevice(PART_DISK_BYTES);
    await partDisk.write(0, pattern(PART_DISK_BYTES, 4));
    const slow = new SlowDevice(new MemoryDevice(exportSize("slow")));
    const bad = new FaultDevice(new MemoryDevice(MiB), new LabClock());
    const error = { kind: "error", code: "MEDIUM_ERROR" } as const;
    bad.inject({ operation: "read", range: { offsetBytes: 4096, lengthBytes: 8192 }, effect: error });
    bad.inject({ operation: "write", range: { offsetBytes: 65_536, lengthBytes: 4096 }, effect: error });
    bad.inject({ operation: "zero", range: { offsetBytes: 131_072, lengthBytes: 4096 }, effect: error });
    bad.inject({ operation: "trim", fromCall: 3, effect: error });
    bad.inject({ operation: "allocation", range: { offsetBytes: 524_288, lengthBytes: 1 }, effect: error });
    const huge = over(new MemoryDevice(exportSize("huge")), { tryWrite: () => true, write: async () => undefined });
    const disks: Record<string, number | BlockDevice> = {
      still,
      scratch: exportSize("scratch"),
      copy: MiB,
      part: partDisk,
      slow: slow.device,
      huge,
      bad,
      good: MiB,
      source: MiB,
    };
    const lab = await EngineLab.start(Object.values(disks), { jobBytes: 8192 });
    const directory = mkdtempSync(join(tmpdir(), "tidemark-fuzz-"));
    const base = await lab.engine.listenNbd(`unix:${join(directory, "nbd.sock")}`);
    for (const [index, name] of Object.keys(disks).entries()) {
      if (name === "source") continue;
      const whole = lab.extent(`v${index + 1}`);
      const extent = name === "part" ? { ...whole, ...PART, name } : whole;
      await lab.engine.addExport({ name, aliases: [], extent, readOnly: name === "still" });
    }
    const nbd = new NbdLab({ lab, slow, base, directory, partDisk, still });
    await nbd.renewCopy();
    return nbd;
  }

  /** The copy begins anew: everything is pending again. */
  async renewCopy(): Promise<void> {
    const source = this.lab.extent("v9");
    await this.lab.engine.write(source, 0, pattern(MiB, ++this.#round));
    const [running] = await this.lab.engine.sessions();
    if (running !== undefined) await this.lab.engine.restartSessions([running.id]);
    else {
      const pair = { source, destination: this.lab.extent("v3"), kind: "quickopc", pace: 1 } as const;
      await this.lab.engine.startSessions([{ id: this.lab.newId(), ...pair }]);
    }
  }

  /** What no client could change is as it was. */
  async untouched(): Promise<string[]> {
    const found: string[] = [];
    const now = Buffer.alloc(MiB);
    await this.#still.read(0, now);
    if (Buffer.compare(now, STILL_CONTENT) !== 0)
      found.push("read-only: the content of a read-only export has changed");
    const disk = Buffer.alloc(PART_DISK_BYTES);
    await this.#partDisk.read(0, disk);
    const was = Buffer.from(pattern(PART_DISK_BYTES, 4));
    const end = PART.offsetBytes + PART.lengthBytes;
    if (
      disk.compare(was, 0, PART.offsetBytes, 0, PART.offsetBytes) !== 0 ||
      disk.compare(was, end, was.length, end) !== 0
    )
      found.push("partition: bytes beside an exported piece of a volume have changed");
    return found;
  }

  async stop(): Promise<void> {
    this.slow.release("pass");
    const stopped = this.lab.engine.stop();
    // The server gives its clients time to go; here time passes by hand.
    const timer = setInterval(() => this.lab.clock.advance(1000), 20);
    try {
      await stopped;
    } finally {
      clearInterval(timer);
      rmSync(this.#directory, { recursive: true, force: true });
    }
  }
}
