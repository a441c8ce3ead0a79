/**
 * The engine lab in the words of the copy tests: volumes with known content, copies held where the test wants them,
 * and a byte model of what every volume must read as.
 */
import type { ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import type { BlockDevice } from "../../src/base/ports.ts";
import { GRANULE_SIZE_BYTES, MiB } from "../../src/base/units.ts";
import { FaultDevice } from "../../src/engine/device/fault-device.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import type { CopyKind, EngineEvent, ExtentRef, SessionStatus } from "../../src/engine/engine-api.ts";
import { EngineLab, LabClock } from "./engine-lab.ts";

export const G = GRANULE_SIZE_BYTES;
/** Rests after each job until the test moves the clock. */
const HELD_PACE = 1;

/** Bytes that differ by seed and position and are never zero, so that a hole is never taken for data. */
export function pattern(lengthBytes: number, seed: number, offsetBytes = 0): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let index = 0; index < lengthBytes; index++) {
    const position = offsetBytes + index;
    bytes[index] = 1 + ((seed * 37 + position * 7 + (position >>> 9) * 13 + (position >>> 13) * 101) % 255);
  }
  return bytes;
}

/** A memory device that can be made to fail, and put right again as if the disk had been exchanged below it. */
export class FaultyDisk {
  readonly memory: MemoryDevice;
  faults: FaultDevice;
  /** What the engine is given. */
  readonly device: BlockDevice;

  constructor(sizeBytes: number) {
    this.memory = new MemoryDevice(sizeBytes);
    this.faults = new FaultDevice(this.memory, new LabClock());
    this.device = new Proxy(this.memory as BlockDevice, {
      get: (_, property) => {
        const { faults } = this;
        const value = Reflect.get(faults, property, faults) as unknown;
        return typeof value === "function" ? value.bind(faults) : value;
      },
    });
  }

  /** No fault is left, and a failed flush is forgotten. */
  repair(): void {
    this.faults = new FaultDevice(this.memory, new LabClock());
  }
}

export type Side = string | ExtentRef;

export class CopyLab {
  readonly lab: EngineLab;
  /** What each volume must read as. */
  readonly expected = new Map<string, Uint8Array>();
  #seed = 100;

  private constructor(lab: EngineLab) {
    this.lab = lab;
  }

  /**
   * Volumes v1, v2, ...: each filled with a pattern of its own. Copies of pace 1 move `jobBytes` a lane and then rest until
   * `step`: right after a start the first two pieces are copied and the others are not.
   */
  static async start(
    t: Pick<ExecutionContext, "teardown">,
    volumes: readonly (number | FaultyDisk)[],
    options: { readonly jobBytes?: number } = {},
  ): Promise<CopyLab> {
    const devices = volumes.map((volume) => (typeof volume === "number" ? new MemoryDevice(volume) : volume.device));
    for (const [index, volume] of volumes.entries()) {
      const memory = typeof volume === "number" ? (devices[index] as MemoryDevice) : volume.memory;
      await memory.write(0, pattern(memory.sizeBytes, index + 1));
    }
    const lab = new CopyLab(await EngineLab.start(devices, { jobBytes: options.jobBytes ?? G }));
    for (const [index, device] of devices.entries())
      lab.expected.set(`v${index + 1}`, pattern(device.sizeBytes, index + 1));
    t.teardown(() => lab.engine.stop());
    return lab;
  }

  get engine() {
    return this.lab.engine;
  }

  extent(side: Side): ExtentRef {
    return typeof side === "string" ? this.lab.extent(side) : side;
  }

  /** A partition of a volume. */
  part(volume: string, name: string, offsetBytes: number, lengthBytes: number): ExtentRef {
    return { ...this.lab.extent(volume, offsetBytes, lengthBytes), name };
  }

  /** Fires one copy; checks that it does what `explain` said. */
  async copy(
    t: ExecutionContext,
    source: Side,
    destination: Side,
    kind: CopyKind,
    options: { readonly pace?: number } = {},
  ): Promise<SessionStatus> {
    const request = { source: this.extent(source), destination: this.extent(destination), kind };
    const plan = await this.engine.explain(request);
    const id = this.lab.newId();
    const [status] = await this.engine.startSessions([{ id, pace: options.pace ?? HELD_PACE, ...request }]);
    if (!status) throw new Error("no session");
    t.is(status.id, plan.existingId ?? id);
    t.like(status, { reason: plan.reason, plannedGranules: plan.plannedGranules, bytesPlanned: plan.bytesPlanned });
    this.expectPoint(status);
    await this.lab.settle();
    return status;
  }

  /** Runs a session again. */
  async restart(id: string): Promise<SessionStatus> {
    const [status] = await this.engine.restartSessions([id]);
    if (!status) throw new Error("no session");
    this.expectPoint(status);
    await this.lab.settle();
    return status;
  }

  /** At a point the destination becomes what the source is. */
  expectPoint({ source, destination }: Pick<SessionStatus, "source" | "destination">): void {
    const from = this.image(source.volumeUid);
    this.image(destination.volumeUid).set(
      from.slice(source.offsetBytes, source.offsetBytes + source.lengthBytes),
      destination.offsetBytes,
    );
  }

  image(volume: string): Uint8Array {
    const image = this.expected.get(volume);
    if (!image) throw new Error(`no volume ${volume}`);
    return image;
  }

  /** A host write; the model follows when it has been acknowledged. */
  async write(volume: string, offsetBytes: number, lengthBytes: number): Promise<void> {
    const data = pattern(lengthBytes, this.#seed++, offsetBytes);
    await this.engine.write(this.extent(volume), offsetBytes, data);
    this.image(volume).set(data, offsetBytes);
  }

  /** One sector in each of these granules. */
  async touch(volume: string, granules: readonly number[]): Promise<void> {
    for (const granule of granules) await this.write(volume, granule * G + 512, 512);
  }

  async read(volume: string, offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return this.engine.read(this.extent(volume), offsetBytes, lengthBytes);
  }

  async session(id: string): Promise<SessionStatus> {
    const status = await this.lab.session(id);
    if (!status) throw new Error(`session ${id} is over`);
    return status;
  }

  /** The volume reads as it must, through the engine. */
  async reads(t: ExecutionContext, volume: string, what = ""): Promise<void> {
    const image = this.image(volume);
    for (let offset = 0; offset < image.length; offset += MiB) {
      const length = Math.min(MiB, image.length - offset);
      same(
        t,
        await this.read(volume, offset, length),
        image.subarray(offset, offset + length),
        `${volume} ${what}`,
        offset,
      );
    }
  }

  /** The disk itself, past the engine, holds what the volume must read as. */
  async holds(t: ExecutionContext, volume: string, what = ""): Promise<void> {
    same(t, await this.lab.physical(volume), this.image(volume), `disk of ${volume} ${what}`, 0);
  }

  /** One granule of the disk itself. */
  async granuleOnDisk(volume: string, granule: number): Promise<Uint8Array> {
    return (await this.lab.physical(volume)).subarray(granule * G, (granule + 1) * G);
  }

  /** Events of one session, without the progress in between: its phases and its end. */
  phases(id: string): string[] {
    const told: string[] = [];
    for (const event of this.lab.events) {
      const phase = phaseOf(event, id);
      if (phase !== undefined && told.at(-1) !== phase) told.push(phase);
    }
    return told;
  }
}

function phaseOf(event: EngineEvent, id: string): string | undefined {
  if (event.type !== "session.changed" && event.type !== "session.ended") return undefined;
  if (event.session.id !== id) return undefined;
  if (event.type === "session.changed") return event.session.phase;
  return `${event.session.phase}, ${event.destinationUsable ? "usable" : "not usable"}`;
}

/** Compares megabytes without printing them. */
export function same(
  t: ExecutionContext,
  actual: Uint8Array,
  wanted: Uint8Array,
  what: string,
  offsetBytes = 0,
): boolean {
  if (Buffer.compare(actual, wanted) === 0) return t.pass();
  let at = 0;
  while (actual[at] === wanted[at] && at < Math.min(actual.length, wanted.length)) at++;
  const where = `byte ${offsetBytes + at} (granule ${Math.floor((offsetBytes + at) / G)})`;
  return t.fail(
    `${what}: ${where} is ${actual[at]}, expected ${wanted[at]}; lengths ${actual.length}, ${wanted.length}`,
  );
}

/** The refusal a call must end with: its code, and that it says what to do next. */
export async function refusal(
  t: ExecutionContext,
  call: () => Promise<unknown>,
  code: TidemarkError["code"],
): Promise<TidemarkError | undefined> {
  const error = await t.throwsAsync(call, { instanceOf: TidemarkError });
  if (error === undefined) return undefined;
  t.is(error.code, code, error.message);
  t.truthy(error.detail.hint, `${code} says what to do next: ${error.message}`);
  return error;
}
