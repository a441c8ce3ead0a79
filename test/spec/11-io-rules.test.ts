/**
 * The table "I/O rules per session" of spec/11, row by row, for OPC and QuickOPC.
 * The copy is held: the first two granules are copied, the others are not.
 */
import test, { type ExecutionContext } from "ava";
import type { CopyKind } from "../../src/engine/engine-api.ts";
import { CopyLab, FaultyDisk, G, pattern, same } from "../support/copy-lab.ts";

/** 20 granules and three sectors: the last granule is partial. */
const SIZE = 20 * G + 1536;
const GRANULES = 21;
const COPIED = 2;

interface Access {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Granules it touches. */
  readonly granules: readonly number[];
}

const ACCESSES: Record<string, Access> = {
  "a whole block": { offsetBytes: 5 * G, lengthBytes: G, granules: [5] },
  "one sector inside a block": { offsetBytes: 5 * G + 1024, lengthBytes: 512, granules: [5] },
  "one byte": { offsetBytes: 6 * G - 1, lengthBytes: 1, granules: [5] },
  "an odd range over four blocks, two of them in part": {
    offsetBytes: 7 * G + 700,
    lengthBytes: 3 * G + 11,
    granules: [7, 8, 9, 10],
  },
  "the partial last block": { offsetBytes: 20 * G, lengthBytes: 1536, granules: [20] },
  "one sector of the partial last block": { offsetBytes: 20 * G + 512, lengthBytes: 512, granules: [20] },
};
const COPIED_ACCESSES: Record<string, Access> = {
  "a whole block": { offsetBytes: G, lengthBytes: G, granules: [1] },
  "one sector inside a block": { offsetBytes: 2560, lengthBytes: 512, granules: [0] },
  "over two blocks": { offsetBytes: G - 300, lengthBytes: 900, granules: [0, 1] },
};

async function held(t: ExecutionContext, kind: CopyKind): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  const status = await lab.copy(t, "v1", "v2", kind);
  t.is(status.pendingGranules, GRANULES, "the command returns before anything is copied");
  t.is((await lab.session("c1")).pendingGranules, GRANULES - COPIED);
  return lab;
}

const before = (granule: number) => pattern(SIZE, 2).subarray(granule * G, (granule + 1) * G);
const atPoint = (granule: number) => pattern(SIZE, 1).subarray(granule * G, (granule + 1) * G);

/** Of the blocks not copied, only these are at the destination now. */
async function onlyCopied(t: ExecutionContext, lab: CopyLab, granules: readonly number[]): Promise<void> {
  for (let granule = COPIED; granule < GRANULES; granule++)
    if (!granules.includes(granule))
      same(t, await lab.granuleOnDisk("v2", granule), before(granule), `block ${granule} is not copied yet`);
  t.is((await lab.session("c1")).pendingGranules, GRANULES - COPIED - granules.length);
}

async function finished(t: ExecutionContext, lab: CopyLab, kind: CopyKind, changed: number): Promise<void> {
  for (const volume of ["v1", "v2"]) await lab.reads(t, volume);
  if (kind === "quickopc") t.is((await lab.session("c1")).changedGranules, changed, "changed blocks");
  await lab.lab.finish();
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume, "after the copy");
  if (kind === "quickopc") t.is((await lab.session("c1")).changedGranules, changed, "copying changes nothing");
}

for (const kind of ["opc", "quickopc"] as const) {
  for (const [shape, access] of Object.entries(ACCESSES)) {
    const { offsetBytes, lengthBytes, granules } = access;
    const changed = granules.length;

    test(`spec/11 I/O rules: ${kind}, not copied, write to source, ${shape}: old data first`, async (t) => {
      const lab = await held(t, kind);
      await lab.write("v1", offsetBytes, lengthBytes);
      for (const granule of granules)
        same(t, await lab.granuleOnDisk("v2", granule), atPoint(granule), `block ${granule} is preserved`);
      await onlyCopied(t, lab, granules);
      await finished(t, lab, kind, changed);
    });

    test(`spec/11 I/O rules: ${kind}, not copied, read of destination, ${shape}: copy first, then serve`, async (t) => {
      const lab = await held(t, kind);
      const wanted = pattern(SIZE, 1).subarray(offsetBytes, offsetBytes + lengthBytes);
      same(t, await lab.read("v2", offsetBytes, lengthBytes), wanted, "the source as of the point");
      for (const granule of granules) same(t, await lab.granuleOnDisk("v2", granule), atPoint(granule), "copied");
      await onlyCopied(t, lab, granules);
      await finished(t, lab, kind, 0);
    });

    test(`spec/11 I/O rules: ${kind}, not copied, write to destination, ${shape}: copy first, then write`, async (t) => {
      const lab = await held(t, kind);
      await lab.write("v2", offsetBytes, lengthBytes);
      for (const granule of granules) {
        const wanted = lab.image("v2").subarray(granule * G, (granule + 1) * G);
        same(t, await lab.granuleOnDisk("v2", granule), wanted, "the rest of the block is the source's");
      }
      await onlyCopied(t, lab, granules);
      await finished(t, lab, kind, changed);
    });

    test(`spec/11 I/O rules: ${kind}, not copied, read of source, ${shape}: nothing but the read`, async (t) => {
      const lab = await held(t, kind);
      const wanted = pattern(SIZE, 1).subarray(offsetBytes, offsetBytes + lengthBytes);
      same(t, await lab.read("v1", offsetBytes, lengthBytes), wanted, "source");
      await onlyCopied(t, lab, []);
    });
  }

  for (const [shape, { offsetBytes, lengthBytes, granules }] of Object.entries(COPIED_ACCESSES)) {
    test(`spec/11 I/O rules: ${kind}, copied, write to source, ${shape}: write only`, async (t) => {
      const lab = await held(t, kind);
      await lab.write("v1", offsetBytes, lengthBytes);
      for (const granule of granules)
        same(t, await lab.granuleOnDisk("v2", granule), atPoint(granule), "the destination keeps the point");
      await onlyCopied(t, lab, []);
      await finished(t, lab, kind, granules.length);
    });

    test(`spec/11 I/O rules: ${kind}, copied, read and write of destination, ${shape}: served as they are`, async (t) => {
      const lab = await held(t, kind);
      await lab.write("v2", offsetBytes, lengthBytes);
      const wanted = lab.image("v2").subarray(offsetBytes, offsetBytes + lengthBytes);
      same(t, await lab.read("v2", offsetBytes, lengthBytes), wanted, "destination");
      await onlyCopied(t, lab, []);
      await finished(t, lab, kind, granules.length);
    });
  }

  test(`spec/11 I/O rules: ${kind}: a range of copied and not copied blocks`, async (t) => {
    const lab = await held(t, kind);
    await lab.write("v1", G - 512, 3 * G);
    await onlyCopied(t, lab, [2, 3]);
    await lab.write("v2", 512, 6 * G);
    await onlyCopied(t, lab, [2, 3, 4, 5, 6]);
    await finished(t, lab, kind, 7);
  });

  test(`spec/11 I/O rules: ${kind}: the source is written only after its old data is at the destination`, async (t) => {
    const destination = new FaultyDisk(SIZE);
    const lab = await CopyLab.start(t, [SIZE, destination]);
    await lab.copy(t, "v1", "v2", kind);
    const stalled = destination.faults.inject({
      operation: "write",
      range: { offsetBytes: 9 * G, lengthBytes: G },
      effect: { kind: "stall" },
    });
    const writing = lab.write("v1", 9 * G, G);
    await stalled.reached(1);
    await lab.lab.settle();
    same(t, await lab.granuleOnDisk("v1", 9), atPoint(9), "not written yet");
    same(t, await lab.read("v1", 9 * G, G), atPoint(9), "and not seen yet");
    stalled.remove();
    await writing;
    same(t, await lab.granuleOnDisk("v2", 9), atPoint(9), "preserved");
    await finished(t, lab, kind, 1);
  });

  test(`spec/11 I/O rules: ${kind}: and only after the destination has made it durable`, async (t) => {
    const destination = new FaultyDisk(SIZE);
    const lab = await CopyLab.start(t, [SIZE, destination]);
    await lab.copy(t, "v1", "v2", kind);
    const stalled = destination.faults.inject({ operation: "flush", effect: { kind: "stall" } });
    const writing = lab.write("v1", 9 * G, G);
    await stalled.reached(1);
    await lab.lab.settle();
    same(t, await lab.granuleOnDisk("v1", 9), atPoint(9), "not written yet");
    stalled.remove();
    await writing;
    await finished(t, lab, kind, 1);
  });
}
