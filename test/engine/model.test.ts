/**
 * The engine against byte arrays: random host I/O and commands, with copies seen half done.
 * The model knows only what a user is told: at a point the destination becomes the source; writes change what they name.
 */
import test from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import { GRANULE_SIZE_BYTES, granulesTouched, KiB } from "../../src/base/units.ts";
import type { CopyKind, ExtentRef, SessionStatus } from "../../src/engine/engine-api.ts";
import { EngineLab } from "../support/engine-lab.ts";

const G = GRANULE_SIZE_BYTES;
const SIZES = [20 * G + 1536, 20 * G + 1536, 26 * G, 23 * G + 512];
/** Extents by volume: the whole, and two neighbouring partitions, the first of which ends inside a granule. */
const PARTS = [
  [0, undefined],
  [0, 8 * G + 1024],
  [9 * G, 8 * G + 512],
] as const;

interface ModelSession {
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  tracking: boolean;
  /** Granules changed on either side since the point. */
  marks: Set<number>;
}

class Model {
  readonly content: Uint8Array[] = SIZES.map((size) => new Uint8Array(size));
  /** 1: nobody promised anything about this byte. */
  readonly unknown: Uint8Array[] = SIZES.map((size) => new Uint8Array(size));
  readonly sessions = new Map<string, ModelSession>();

  write(volume: number, offset: number, data: Uint8Array): void {
    this.content[volume]?.set(data, offset);
    this.unknown[volume]?.fill(0, offset, offset + data.length);
    this.mark(`v${volume + 1}`, offset, data.length);
  }

  mark(volumeUid: string, offset: number, length: number, except?: ModelSession): void {
    for (const session of this.sessions.values()) {
      if (!session.tracking || session === except) continue;
      for (const side of [session.source, session.destination]) {
        const from = Math.max(offset, side.offsetBytes);
        const to = Math.min(offset + length, side.offsetBytes + session.source.lengthBytes);
        // The map has whole granules of the volume.
        if (side.volumeUid !== volumeUid) continue;
        const touched = granulesTouched(offset, length);
        const first = side.offsetBytes / G;
        for (let granule = touched.first; granule < touched.first + touched.count; granule++) {
          const own = granule - first;
          if (own >= 0 && own < Math.ceil(session.source.lengthBytes / G)) session.marks.add(own);
        }
        void from;
        void to;
      }
    }
  }

  point(status: SessionStatus, plannedSet: ReadonlySet<number>): void {
    const { source, destination } = status;
    const length = source.lengthBytes;
    const from = index(source);
    const to = index(destination);
    for (const arrays of [this.content, this.unknown]) {
      const bytes = arrays[from]?.slice(source.offsetBytes, source.offsetBytes + length) ?? new Uint8Array();
      arrays[to]?.set(bytes, destination.offsetBytes);
    }
    const session: ModelSession = { source, destination, tracking: status.tracking, marks: new Set() };
    const old = this.sessions.get(status.id);
    for (const granule of plannedSet) this.mark(destination.volumeUid, destination.offsetBytes + granule * G, 1, old);
    this.sessions.set(status.id, session);
  }

  lose(extent: ExtentRef): void {
    this.unknown[index(extent)]?.fill(1, extent.offsetBytes, extent.offsetBytes + extent.lengthBytes);
  }
}

function index(extent: ExtentRef): number {
  return Number(extent.volumeUid.slice(1)) - 1;
}

type Op =
  | { type: "write"; volume: number; at: number; length: number; fill: number }
  | { type: "burst"; volume: number; at: number; fill: number }
  | { type: "read"; volume: number; at: number; length: number }
  | { type: "start"; from: number; to: number; part: number; toPart: number; kind: CopyKind }
  | { type: "restart" | "cancel" | "stop-tracking" | "restore"; pick: number }
  | { type: "step"; count: number }
  | { type: "finish" | "reboot" }
  | { type: "kill"; seed: number };

const volume = fc.nat({ max: SIZES.length - 1 });
const position = fc.double({ min: 0, max: 1, noNaN: true });
const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant("write" as const),
      volume,
      at: position,
      length: fc.integer({ min: 1, max: 3 * G }),
      fill: fc.integer({ min: 1, max: 255 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant("burst" as const),
      volume,
      at: position,
      fill: fc.integer({ min: 1, max: 255 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant("read" as const),
      volume,
      at: position,
      length: fc.integer({ min: 1, max: 4 * G }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant("start" as const),
      from: volume,
      to: volume,
      part: fc.nat({ max: 2 }),
      toPart: fc.nat({ max: 2 }),
      kind: fc.constantFrom<CopyKind>("opc", "quickopc", "quickopc"),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constantFrom(
        "restart" as const,
        "restore" as const,
        "cancel" as const,
        "stop-tracking" as const,
        "restart" as const,
      ),
      pick: fc.nat({ max: 20 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ type: fc.constant("step" as const), count: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constantFrom("finish" as const, "reboot" as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant("kill" as const), seed: fc.nat({ max: 1_000_000 }) }),
  },
);

const REFUSALS = new Set([
  "SOURCE_IS_DESTINATION",
  "DESTINATION_TOO_SMALL",
  "DESTINATION_IN_USE",
  "DESTINATION_COPYING",
  "COPY_CYCLE",
  "REVERSE_NOT_OPC",
  "COPY_STATE",
  "NOT_TRACKING",
  "SESSION_NOT_FOUND",
]);

class Run {
  readonly lab: EngineLab;
  readonly model = new Model();
  readonly seen: Record<string, number> = {};

  constructor(lab: EngineLab) {
    this.lab = lab;
  }

  range(volumeIndex: number, at: number, length: number): { offset: number; length: number } {
    const size = SIZES[volumeIndex] ?? 0;
    const offset = Math.min(size - 1, Math.floor(at * size));
    return { offset, length: Math.min(length, size - offset) };
  }

  extent(volumeIndex: number, part: number): ExtentRef {
    const [offset, length] = PARTS[part] ?? PARTS[0];
    return this.lab.extent(`v${volumeIndex + 1}`, offset, length);
  }

  async execute(operation: Op): Promise<void> {
    try {
      await this.#execute(operation);
      this.seen[operation.type] = (this.seen[operation.type] ?? 0) + 1;
    } catch (error) {
      if (!(error instanceof TidemarkError) || !REFUSALS.has(error.code)) throw error;
      this.seen[error.code] = (this.seen[error.code] ?? 0) + 1;
    }
  }

  async #execute(operation: Op): Promise<void> {
    switch (operation.type) {
      case "write":
        return this.#write(operation.volume, operation.at, operation.length, operation.fill);
      case "burst":
        // Disjoint writes under way at the same time.
        await Promise.all(
          [0, 1, 2, 3].map((step) =>
            this.#write(operation.volume, Math.min(0.99, operation.at / 2 + step / 8), 700, operation.fill + step),
          ),
        );
        return;
      case "read":
        return this.#read(operation.volume, operation.at, operation.length);
      case "start": {
        const source = this.extent(operation.from, operation.part);
        const destination = this.extent(operation.to, operation.toPart);
        return this.#start(source, destination, operation.kind);
      }
      case "restart":
      case "restore":
      case "cancel":
      case "stop-tracking":
        return this.#onSession(operation.type, operation.pick);
      case "step":
        for (let left = operation.count; left > 0; left--) await this.lab.step();
        return;
      case "finish":
        return this.lab.finish();
      case "reboot":
        return this.lab.reboot();
      case "kill":
        await this.lab.kill(operation.seed);
        // Maps may be wider now; how much was copied is no longer known to the granule.
        this.model.sessions.clear();
        return;
    }
  }

  async #write(volumeIndex: number, at: number, wanted: number, fill: number): Promise<void> {
    const { offset, length } = this.range(volumeIndex, at, wanted);
    const data = new Uint8Array(length).map((_, position) => (fill + position * 7) & 0xff);
    this.model.write(volumeIndex, offset, data);
    await this.lab.engine.write(this.extent(volumeIndex, 0), offset, data);
  }

  async #read(volumeIndex: number, at: number, wanted: number): Promise<void> {
    const { offset, length } = this.range(volumeIndex, at, wanted);
    this.#compare(volumeIndex, offset, await this.lab.engine.read(this.extent(volumeIndex, 0), offset, length), "read");
  }

  #compare(volumeIndex: number, offset: number, bytes: Uint8Array, what: string): void {
    const content = this.model.content[volumeIndex];
    const unknown = this.model.unknown[volumeIndex];
    for (let position = 0; position < bytes.length; position++) {
      const at = offset + position;
      if (unknown?.[at] || bytes[position] === content?.[at]) continue;
      throw new Error(`${what}: v${volumeIndex + 1} byte ${at} is ${bytes[position]}, expected ${content?.[at]}`);
    }
  }

  async #start(source: ExtentRef, destination: ExtentRef, kind: CopyKind): Promise<void> {
    const request = { source, destination, kind };
    const before = await this.lab.engine.sessions();
    const plan = await this.lab.engine.explain(request);
    const [status] = await this.lab.engine.startSessions([{ id: this.lab.newId(), pace: 1, ...request }]);
    if (!status) throw new Error("no session");
    const moved = plan.plannedGranules - status.plannedGranules;
    if (moved < 0 || moved > plan.pendingGranules)
      throw new Error(`explain said ${plan.plannedGranules}, planned ${status.plannedGranules}`);
    this.#pointTaken(status, before);
  }

  #pointTaken(status: SessionStatus, before: readonly SessionStatus[]): void {
    const based =
      status.reason === "RESTORE_DIFFERENCE"
        ? before.find((one) => sameExtent(one.source, status.destination) && sameExtent(one.destination, status.source))
        : before.find((one) => one.id === status.id);
    const all = Math.ceil(status.source.lengthBytes / G);
    const marks = this.model.sessions.get(based?.id ?? "")?.marks;
    const differs = status.reason === "DIFFERENCE" || status.reason === "RESTORE_DIFFERENCE";
    if (differs && marks === undefined) {
      // Forgotten on the way; only the bytes are checked.
    } else if (differs) {
      const marked = marks?.size ?? 0;
      const pending = status.reason === "DIFFERENCE" ? (based?.pendingGranules ?? 0) : 0;
      // Copying goes on until the barrier, so of what was pending any part may be left.
      const least = marked;
      const most = marked + pending;
      if (status.plannedGranules < least || status.plannedGranules > most)
        throw new Error(
          `${status.id} ${status.reason}: planned ${status.plannedGranules}, marked ${marked}, pending ${pending}`,
        );
    } else if (status.plannedGranules !== all)
      throw new Error(`${status.reason}: planned ${status.plannedGranules} of ${all}`);
    // Which granules were pending the model does not know: for the marks of others it takes the most.
    const exact = differs && marks !== undefined && based?.phase === "tracking";
    const planned = exact ? new Set(marks) : new Set(Array.from({ length: all }, (_, granule) => granule));
    if (!exact && differs) this.forgetMarksOf(status.destination.volumeUid);
    this.model.point(status, planned);
  }

  /** Sessions that track this volume can no longer be checked to the granule. */
  forgetMarksOf(volumeUid: string): void {
    for (const [id, session] of this.model.sessions)
      if ([session.source.volumeUid, session.destination.volumeUid].includes(volumeUid)) this.model.sessions.delete(id);
  }

  async #onSession(type: "restart" | "restore" | "cancel" | "stop-tracking", pick: number): Promise<void> {
    const sessions = await this.lab.engine.sessions();
    const session = sessions[pick % Math.max(1, sessions.length)];
    if (!session) return;
    if (type === "restore") return this.#start(session.destination, session.source, "opc");
    if (type === "restart") {
      const [status] = await this.lab.engine.restartSessions([session.id]);
      if (status && (this.model.sessions.has(session.id) || status.kind === "opc")) this.#pointTaken(status, sessions);
      else if (status) {
        // How much of it was planned is not known: nor is what it marks for those who track the destination.
        this.forgetMarksOf(status.destination.volumeUid);
        this.model.point(status, new Set(Array.from({ length: status.totalGranules }, (_, granule) => granule)));
      }
      return;
    }
    if (type === "stop-tracking") {
      await this.lab.engine.stopTracking(session.id);
      this.model.sessions.delete(session.id);
      return;
    }
    const { destinationUsable } = await this.lab.engine.cancelSession(session.id);
    this.model.sessions.delete(session.id);
    if (!destinationUsable) this.model.lose(session.destination);
  }

  /** At the end: everything is copied, the sources could burn, and the disks hold what was promised. */
  async check(): Promise<void> {
    await this.lab.finish();
    for (const session of await this.lab.engine.sessions())
      if (session.phase !== "tracking") throw new Error(`${session.id} ended as ${session.phase}`);
    for (let volumeIndex = 0; volumeIndex < SIZES.length; volumeIndex++)
      this.#compare(volumeIndex, 0, await this.lab.physical(`v${volumeIndex + 1}`), "disk");
    await this.lab.reboot();
    for (let volumeIndex = 0; volumeIndex < SIZES.length; volumeIndex++)
      this.#compare(volumeIndex, 0, await this.lab.physical(`v${volumeIndex + 1}`), "disk after a restart");
    const troubles = this.lab.events.filter(
      (event) => event.type === "engine.trouble" || event.type === "volume.failed",
    );
    if (troubles.length > 0) throw new Error(JSON.stringify(troubles));
    await this.lab.engine.stop();
  }
}

function sameExtent(a: ExtentRef, b: ExtentRef): boolean {
  return a.volumeUid === b.volumeUid && a.offsetBytes === b.offsetBytes;
}

test("property: random host I/O and commands agree with byte arrays", async (t) => {
  t.timeout(300_000);
  const seen: Record<string, number> = {};
  await fc.assert(
    fc.asyncProperty(fc.array(op, { minLength: 5, maxLength: 60, size: "max" }), async (operations) => {
      const run = new Run(await EngineLab.start(SIZES, { jobBytes: 16 * KiB }));
      for (const operation of operations) await run.execute(operation);
      await run.check();
      for (const [name, count] of Object.entries(run.seen)) seen[name] = (seen[name] ?? 0) + count;
    }),
    {
      numRuns: Number(process.env["TIDEMARK_MODEL_RUNS"] ?? 60),
      includeErrorInReport: true,
      ...(process.env["TIDEMARK_MODEL_SEED"] ? { seed: Number(process.env["TIDEMARK_MODEL_SEED"]) } : {}),
    },
  );
  t.log(JSON.stringify(seen));
  for (const wanted of [
    "write",
    "read",
    "start",
    "restart",
    "cancel",
    "stop-tracking",
    "reboot",
    "kill",
    "DESTINATION_COPYING",
  ])
    t.true((seen[wanted] ?? 0) > 0, `${wanted} happened`);
});
