/**
 * Where copies may lie: sizes, partitions, cascades, circles, and restarts of the box in between.
 * spec/11 "Copy engines", "Counts and sizes"; DESIGN section 4.
 */
import test, { type ExecutionContext } from "ava";
import { KiB, MiB } from "../../src/base/units.ts";
import type { CopyKind } from "../../src/engine/engine-api.ts";
import { CopyLab, G, pattern, refusal, same } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
/** Larger than what two lanes of a cascade's next step bring in at once: the part from TAIL on stays to be copied. */
const DEEP = 12 * MiB + 1536;
const TAIL = 8 * MiB + 64 * KiB;

for (const kind of ["opc", "quickopc"] as const) {
  test(`${kind}: a larger destination keeps its bytes beyond the source`, async (t) => {
    const lab = await CopyLab.start(t, [SIZE, 30 * G]);
    const status = await lab.copy(t, "v1", "v2", kind);
    t.is(status.totalGranules, 21);
    const tail = pattern(30 * G, 2).subarray(SIZE);
    // The rest of the last block the copy writes into, and a block beyond it.
    await lab.write("v2", SIZE + 100, 300);
    await lab.write("v2", 25 * G, 700);
    await lab.reads(t, "v2", "while copying");
    if (kind === "quickopc") t.is((await lab.session("c1")).changedGranules, 1, "only the block it shares counts");
    await lab.lab.finish();
    await lab.holds(t, "v2");
    same(t, (await lab.lab.physical("v2")).subarray(SIZE, SIZE + 100), tail.subarray(0, 100), "the rest of the block");
    same(t, (await lab.lab.physical("v2")).subarray(26 * G), tail.subarray(26 * G - SIZE), "the blocks beyond");
  });

  test(`${kind}: a partition that ends inside a block does not touch its neighbour`, async (t) => {
    const lab = await CopyLab.start(t, [30 * G, 30 * G]);
    const length = 8 * G + 1024;
    const source = lab.part("v1", "v1p1", 2 * G, length);
    const destination = lab.part("v2", "v2p3", 12 * G, length);
    const status = await lab.copy(t, source, destination, kind);
    t.is(status.bytesPlanned, length);
    const lastBlock = 20 * G;
    await lab.write("v2", lastBlock + 1024, 512); // the neighbour's first sector, in the same block
    await lab.write("v2", lastBlock - 512, 512); // the partition's own
    await lab.write("v1", 10 * G + 512, 1024); // both sides of the source partition's end
    for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "while copying");
    await lab.lab.finish();
    for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
  });

  test(`${kind}: partitions of one LU are copied to each other and beside each other`, async (t) => {
    const lab = await CopyLab.start(t, [40 * G, 40 * G]);
    const a = lab.part("v1", "v1p1", 0, 8 * G);
    const b = lab.part("v1", "v1p2", 8 * G, 8 * G);
    const c = lab.part("v2", "v2p1", 16 * G, 8 * G);
    await lab.copy(t, a, b, kind);
    await lab.copy(t, b, c, kind);
    await lab.write("v1", 7 * G, 2 * G); // through the whole LU, over both partitions
    for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "while copying");
    await lab.lab.finish();
    for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
  });

  test(`${kind}: a cascade of three, read at any moment, is each step's own point`, async (t) => {
    const lab = await CopyLab.start(t, [DEEP, DEEP, DEEP, DEEP]);
    const volumes = ["v4", "v3", "v2", "v1"];
    for (const [from, to] of [
      ["v1", "v2"],
      ["v2", "v3"],
      ["v3", "v4"],
    ] as const) {
      await lab.copy(t, from, to, kind);
      await lab.write("v1", TAIL + 10 * G + 77, 3 * G);
      await lab.write("v2", TAIL + 14 * G + 5, 600);
    }
    await lab.write("v3", TAIL + 16 * G, 512);
    t.true((await lab.session("c1")).pendingGranules > 500, "the first step is still to be copied");
    const length = 3 * G + 100;
    for (let step = 0; step < 8; step++) {
      await lab.write("v1", TAIL + step * 40 * G + 1000, 900);
      for (const volume of volumes) {
        const at = TAIL + step * 40 * G - 50;
        same(t, await lab.read(volume, at, length), lab.image(volume).subarray(at, at + length), `${volume}, ${step}`);
      }
      await lab.lab.step();
    }
    for (const volume of volumes) await lab.reads(t, volume);
    for (const { id } of await lab.engine.sessions()) await lab.engine.setPace(id, 15);
    await lab.lab.finish();
    for (const volume of volumes) await lab.holds(t, volume);
  });

  test(`${kind}: a write at the head of a held cascade preserves through all of it`, async (t) => {
    const lab = await CopyLab.start(t, [DEEP, DEEP, DEEP, DEEP]);
    await lab.copy(t, "v1", "v2", kind);
    await lab.copy(t, "v2", "v3", kind);
    await lab.copy(t, "v3", "v4", kind);
    const pending = (await lab.session("c1")).pendingGranules;
    t.true(pending > 500);
    const at = TAIL + 12 * G;
    for (const volume of ["v1", "v2", "v3"]) await lab.write(volume, at, G);
    t.is((await lab.session("c1")).pendingGranules, pending - 1, "one block went through");
    same(t, await lab.read("v4", at, G), pattern(G, 1, at), "the head's point, at the end");
    for (const volume of ["v1", "v2", "v3", "v4"])
      same(t, await lab.read(volume, at - G, 3 * G), lab.image(volume).subarray(at - G, at + 2 * G), volume);
  });

  test(`${kind}: sizes and places that cannot be are refused by name`, async (t) => {
    const lab = await CopyLab.start(t, [SIZE, 20 * G, 30 * G]);
    const refuse = (
      source: string | ReturnType<CopyLab["part"]>,
      destination: typeof source,
      code: Parameters<typeof refusal>[2],
    ) =>
      refusal(
        t,
        () =>
          lab.engine.startSessions([
            { id: "c99", source: lab.extent(source), destination: lab.extent(destination), kind, pace: 1 },
          ]),
        code,
      );
    const small = await refuse("v1", "v2", "DESTINATION_TOO_SMALL");
    t.regex(small?.message ?? "", /v2.*163840.*v1.*165376/);
    await refuse("v1", "v1", "SOURCE_IS_DESTINATION");
    await refuse(lab.part("v3", "v3p1", 0, 10 * G), lab.part("v3", "v3p2", 9 * G, 10 * G), "SOURCE_IS_DESTINATION");
    const unaligned = await refuse(lab.part("v3", "v3p1", 512, 10 * G), "v2", "PARTITION_UNALIGNED");
    t.regex(unaligned?.message ?? "", /v3p1.*512.*8192/);
    await refuse(lab.part("v3", "v3p1", 0, 10 * G), lab.part("v2", "v2p1", G + 4096, 10 * G), "PARTITION_UNALIGNED");
    await refuse("v3", lab.part("v2", "v2p1", 0, 20 * G), "DESTINATION_TOO_SMALL");
    t.deepEqual(await lab.engine.sessions(), [], "nothing was started");
  });

  test(`${kind}: circles are refused, of two, three and four, also through partitions`, async (t) => {
    const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE, SIZE]);
    await lab.copy(t, "v1", "v2", kind);
    await lab.copy(t, "v2", "v3", kind);
    await lab.copy(t, "v3", "v4", kind);
    const refused = async (source: string, destination: string) => {
      const request = { source: lab.extent(source), destination: lab.extent(destination), kind };
      const error = await t.throwsAsync(() => lab.engine.explain(request), { instanceOf: Error });
      return (error as { code?: string } | undefined)?.code;
    };
    await lab.lab.finish();
    if (kind === "quickopc") {
      t.is(await refused("v3", "v1"), "COPY_CYCLE");
      t.is(await refused("v4", "v1"), "COPY_CYCLE");
      t.is(await refused("v2", "v1"), "REVERSE_NOT_OPC");
    } else {
      // Plain copies are over: there is no circle left to close.
      t.is((await lab.copy(t, "v4", "v1", kind)).reason, "FIRST_COPY");
      t.is(await refused("v1", "v4"), "DESTINATION_COPYING");
    }
  });

  test(`${kind}: a copy that others read through cannot be cancelled before them`, async (t) => {
    const lab = await CopyLab.start(t, [DEEP, DEEP, DEEP]);
    await lab.copy(t, "v1", "v2", kind);
    await lab.copy(t, "v2", "v3", kind);
    const error = await refusal(t, () => lab.engine.cancelSession("c1"), "COPY_STATE");
    t.regex(error?.message ?? "", /c2/);
    same(t, await lab.read("v3", TAIL, G), pattern(G, 1, TAIL), "through both");
    await lab.engine.cancelSession("c2");
    t.false((await lab.engine.cancelSession("c1")).destinationUsable);
  });

  test(`${kind}: a clean restart in the middle of copying goes on where it was`, async (t) => {
    const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
    await lab.copy(t, "v1", "v2", kind);
    await lab.copy(t, "v2", "v3", kind);
    await lab.write("v1", 9 * G, 2 * G);
    await lab.write("v2", 12 * G + 10, 50);
    await lab.lab.step();
    await afterReboot(t, lab);
    await lab.write("v1", 0, 3 * G);
    await lab.write("v3", 15 * G, 700);
    for (const volume of ["v1", "v2", "v3"]) await lab.reads(t, volume, "after the restart");
    await lab.lab.finish();
    for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
    if (kind === "quickopc") {
      t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 6, reason: "FIRST_COPY" });
      await afterReboot(t, lab);
      t.like(await lab.restart("c2"), { reason: "DIFFERENCE", plannedGranules: 2 });
    }
  });
}

/** Nothing a user can see changes over a clean restart, except that lanes take their next step. */
async function afterReboot(t: ExecutionContext, lab: CopyLab): Promise<void> {
  // What is copied but not yet recorded is recorded while stopping.
  const before = await lab.engine.sessions();
  await lab.lab.reboot();
  const after = await lab.engine.sessions();
  t.deepEqual(
    after.map(({ id }) => id),
    before.map(({ id }) => id),
  );
  for (const [index, status] of after.entries()) {
    const { pendingGranules, bytesCopied, etaSeconds, ...rest } = before[index] as typeof status;
    t.like(status, rest);
    t.true(status.pendingGranules <= pendingGranules, "nothing is copied twice");
    t.true(status.bytesCopied >= bytesCopied);
    t.true(etaSeconds >= 0);
  }
}

test("QuickOPC: a restart of the head of a cascade while the next step still needs its destination is refused", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.copy(t, "v2", "v3", "quickopc");
  await lab.touch("v1", [4]);
  await refusal(t, () => lab.engine.restartSessions(["c1"]), "DESTINATION_COPYING");
  await lab.lab.finish();
  await lab.restart("c1");
  await lab.lab.finish();
  // The point changed v2: the next step's difference has it.
  t.true((await lab.session("c2")).changedGranules >= 1);
  await lab.restart("c2");
  await lab.lab.finish();
  for (const volume of ["v2", "v3"]) await lab.holds(t, volume);
});

test("QuickOPC: a restore along a cascade, step by step", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.copy(t, "v2", "v3", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [1, 2]);
  await lab.touch("v2", [3]);
  t.like(await lab.copy(t, "v3", "v2", "opc"), { reason: "RESTORE_DIFFERENCE", plannedGranules: 1 });
  await lab.lab.finish();
  t.like(await lab.copy(t, "v2", "v1", "opc"), { reason: "RESTORE_DIFFERENCE", plannedGranules: 3 });
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
  same(t, await lab.lab.physical("v1"), await lab.lab.physical("v3"), "back to the last point");
});

test("QuickOPC: a restore from a larger destination copies back what had been copied", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, 30 * G]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [1, 7]);
  await lab.write("v2", 28 * G, 512);
  t.like(await lab.copy(t, "v2", "v1", "opc"), { reason: "RESTORE_DIFFERENCE", plannedGranules: 2 });
  await lab.lab.finish();
  await lab.holds(t, "v1");
});

test("several pairs fire at one instant, all or none", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE, SIZE]);
  const pair = (id: string, from: string, to: string, kind: CopyKind = "quickopc") => ({
    ...{ id, source: lab.extent(from), destination: lab.extent(to), kind, pace: 1 },
  });
  await refusal(
    t,
    () => lab.engine.startSessions([pair("c1", "v1", "v2"), pair("c2", "v3", "v3")]),
    "SOURCE_IS_DESTINATION",
  );
  await refusal(
    t,
    () => lab.engine.startSessions([pair("c1", "v1", "v2"), pair("c2", "v3", "v2")]),
    "DESTINATION_IN_USE",
  );
  await refusal(t, () => lab.engine.startSessions([pair("c1", "v1", "v2"), pair("c2", "v2", "v3")]), "COPY_STATE");
  t.deepEqual(await lab.engine.sessions(), []);
  const statuses = await lab.engine.startSessions([pair("c1", "v1", "v2"), pair("c2", "v3", "v4")]);
  t.is(new Set(statuses.map(({ pointMs }) => pointMs)).size, 1);
  for (const status of statuses) lab.expectPoint(status);
  await lab.write("v1", 5 * G, G);
  await lab.write("v3", 6 * G, G);
  for (const volume of ["v2", "v4"]) await lab.reads(t, volume);
  await lab.lab.finish();
  const again = await lab.engine.restartSessions(["c1", "c2"]);
  t.deepEqual(
    again.map(({ plannedGranules }) => plannedGranules),
    [1, 1],
  );
});

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("spec/11 engine part of #49: one point over two volumes never has a later write without an earlier one", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE, SIZE]);
  const number = async (volume: string) => new DataView((await lab.read(volume, 5 * G, 8)).buffer).getFloat64(0);
  for (const volume of ["v1", "v3"]) await lab.engine.write(lab.extent(volume), 5 * G, new Uint8Array(8));
  let over = false;
  const writer = (async () => {
    for (let count = 1; !over; count++) {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setFloat64(0, count);
      for (const volume of ["v1", "v3"]) {
        await lab.engine.write(lab.extent(volume), 5 * G, bytes.slice());
        await turn();
      }
    }
  })();
  const pairs = [
    ["v1", "v2"],
    ["v3", "v4"],
  ] as const;
  const seen = new Set<number>();
  for (let round = 0; round < 20; round++) {
    await lab.engine.startSessions(
      pairs.map(([from, to]) => ({
        ...{ id: lab.lab.newId(), source: lab.extent(from), destination: lab.extent(to), pace: 1 },
        kind: round % 2 === 0 ? ("quickopc" as const) : ("opc" as const),
      })),
    );
    const [first, second] = [await number("v2"), await number("v4")];
    for (let turns = 0; turns < 3 + (round % 4); turns++) await turn();
    t.true(first === second || first === second + 1, `${first} then ${second}`);
    seen.add(first);
  }
  over = true;
  await writer;
  t.true(seen.size > 5, "the writer went on between the points");
});
