/**
 * Rows of copies against the engine's files (data-safety 1.9: "the session super is the authority and can rebuild its row"):
 * whatever the store says, a start shows what the engine has, and an event says what was put right.
 */
import test, { type ExecutionContext } from "ava";
import { openMemoryStore } from "../../src/store/memory/memory.ts";
import type { CopyRow } from "../../src/store/rows.ts";
import type { Change } from "../../src/store/store.ts";
import { KillableBox } from "../support/killable-box.ts";

const page = { pageSize: 0, pageToken: "" };
const pairs = [{ source: "g1d1", destination: "g1d2" }];

async function tracked(t: ExecutionContext): Promise<KillableBox> {
  const killable = await KillableBox.make(t, 3);
  await killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  await killable.finish();
  return killable;
}

/** Kills the box, changes its store, starts it again. */
async function leave(killable: KillableBox, changes: (row: CopyRow) => readonly Change[]): Promise<void> {
  const row = await killable.store.get("copies", 1);
  if (row === undefined) throw new Error("there is no row");
  await killable.die();
  const store = await openMemoryStore(killable.storeDisk);
  await store.commit(changes(row));
  await store.close();
  await killable.start();
}

const lastEvent = (killable: KillableBox) => killable.box.events("c1", { ...page, pageSize: 1000 }).items.at(-1);

async function shows(t: ExecutionContext, killable: KillableBox, phase: string, event: string, text: RegExp) {
  t.is((await killable.box.copies.get("c1")).phase, phase as never);
  const { items } = await killable.box.copies.list({ volume: "", ended: "include" }, page);
  t.deepEqual(
    items.map(({ id }) => id),
    ["c1"],
  );
  t.is(lastEvent(killable)?.type, event);
  t.regex(lastEvent(killable)?.message ?? "", text);
  const count = killable.events("c1").length;
  await killable.kill();
  t.is(killable.events("c1").length, count, "it is put right once");
  t.is((await killable.box.copies.get("c1")).phase, phase as never);
}

test("a session without a row is taken over", async (t) => {
  const killable = await tracked(t);
  await leave(killable, () => [{ table: "copies", remove: 1 }]);
  t.is((await killable.store.get("copies", 1))?.generation, 1);
  await shows(t, killable, "tracking", "copy.adopted", /had not been recorded/);
});

for (const [title, change, text] of [
  ["of another run", { generation: 7 }, /run 7 was recorded, run 1 is there/],
  ["of another kind", { kind: "opc" }, /opc was recorded, it is quickopc/],
  ["of another point", { pointMs: 5 }, /another point was recorded/],
  [
    "of another destination",
    { destination: { volumeUid: "u", name: "g1d9", offsetBytes: 0, lengthBytes: 512 } },
    /destination g1d9 was recorded, it is g1d2/,
  ],
] as const)
  test(`a row ${title} is put right by the engine's files`, async (t) => {
    const killable = await tracked(t);
    await leave(killable, (row) => [{ table: "copies", put: { ...row, ...change } }]);
    t.like(await killable.store.get("copies", 1), { generation: 1, kind: "quickopc", destination: { name: "g1d2" } });
    await shows(t, killable, "tracking", "copy.corrected", text);
  });

test("a copy that is recorded as ended but exists, exists", async (t) => {
  const killable = await tracked(t);
  const status = await killable.box.copies.get("c1");
  await leave(killable, (row) => [
    { table: "copies", remove: 1 },
    {
      table: "ended-copies",
      put: {
        ...status,
        ...row,
        phase: "completed",
        endedMs: 9,
        failureCause: "",
        failureMessage: "",
        destinationUsable: true,
      },
    },
  ]);
  t.is(await killable.store.get("ended-copies", 1), undefined);
  await shows(t, killable, "tracking", "copy.corrected", /was recorded as completed, but it exists/);
});

test("a row whose session is gone: the copy has ended, its destination is not to be relied on, its number is not reused", async (t) => {
  const killable = await tracked(t);
  await killable.die();
  for (const name of await killable.stateFiles.list("sessions/c1"))
    await killable.stateFiles.remove(`sessions/c1/${name}`);
  await killable.stateFiles.removeDirectory("sessions/c1");
  await killable.start();
  const copy = await killable.box.copies.get("c1");
  t.is(copy.failure?.cause, "OTHER");
  t.regex(copy.failure?.message ?? "", /gone or damaged.*do not rely on its destination/);
  t.is((await killable.store.get("ended-copies", 1))?.destinationUsable, false);
  await shows(t, killable, "cancelled", "copy.lost", /g1d1 to g1d2.*do not rely on g1d2/);
  const [next] = await killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  t.is(next?.id, "c2");
});

/** Kills at the commit that is the n-th from now. */
async function killAtCommit(killable: KillableBox, commit: number, run: () => Promise<unknown>): Promise<void> {
  let commits = 0;
  killable.intercept((step) => (step === "commit" && ++commits >= commit ? new Promise(() => undefined) : undefined));
  await Promise.race([run(), killable.settle()]);
  await killable.settle();
  await killable.kill();
}

test("killed between a first point and its record: the copy is there, with an event", async (t) => {
  const killable = await KillableBox.make(t, 2);
  await killAtCommit(killable, 2, () => killable.box.copies.start({ pairs, kind: "quickopc", pace: 1 }, () => []));
  t.is((await killable.box.copies.get("c1")).generation, 1);
  t.true(killable.events("c1").includes("copy.adopted"));
  t.is(killable.box.copies.totals().copying + killable.box.copies.totals().tracking, 1);
});

test("killed between a further point and its record: the row follows the engine", async (t) => {
  const killable = await tracked(t);
  await killAtCommit(killable, 1, () => killable.box.copies.restart(["c1"], () => []));
  t.is((await killable.store.get("copies", 1))?.generation, 2);
  t.is(killable.events("c1").filter((type) => type === "copy.corrected").length, 1);
});

test("killed between the end of the copying and its event: the next start tells it", async (t) => {
  const killable = await KillableBox.make(t, 2);
  await killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  await killAtCommit(killable, 1, () => killable.finish());
  t.deepEqual(killable.events("c1"), ["copy.started", "copy.copied"]);
  await killable.kill();
  t.deepEqual(killable.events("c1"), ["copy.started", "copy.copied"], "once");
});

test("killed between the end of a plain copy and its record: it has completed, its destination is complete", async (t) => {
  const killable = await KillableBox.make(t, 2);
  await killable.box.copies.start({ pairs, kind: "opc", pace: 15 }, () => []);
  await killAtCommit(killable, 1, () => killable.finish());
  t.is((await killable.box.copies.get("c1")).phase, "completed");
  t.deepEqual(killable.events("c1"), ["copy.started", "copy.completed"]);
  t.is((await killable.store.get("ended-copies", 1))?.destinationUsable, true);
  t.is(await killable.store.get("copies", 1), undefined);
  await killable.settle();
  t.deepEqual(await killable.stateFiles.list("sessions"), []);
});

test("what is told of a run while the next point is under way is recorded before that point", async (t) => {
  const killable = await KillableBox.make(t, 4);
  const { copies } = killable.box;
  await copies.start({ pairs: [{ source: "g1d3", destination: "g1d4" }], kind: "quickopc", pace: 0 }, () => []);
  await killable.finish();
  const [session] = await copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  t.like(session, { id: "c2", phase: "copying" });
  // The engine changes another copy, so that the next point of this one waits while its copying ends.
  let goOn: () => void = () => undefined;
  const slow = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  killable.stateFiles.intercept = ({ type, path }) => (type === "sync" && /c1.super/.test(path) ? slow : undefined);
  const other = copies.setPace("c1", 3, () => []);
  const again = copies.restart(["c2"], () => []);
  await killable.finish();
  t.deepEqual(killable.events("c2"), ["copy.started"], "it waits for the point");
  killable.stateFiles.intercept = undefined;
  goOn();
  await Promise.all([other, again]);
  await killable.finish();
  t.is((await killable.engine.sessionStatus("c2")).generation, 2);
  t.is((await killable.store.get("copies", 2))?.generation, 2, "the row is that of the run that is there");
  t.deepEqual(killable.events("c2"), ["copy.started", "copy.copied", "copy.restarted", "copy.copied"]);
  await killable.kill();
  t.is(killable.events("c2").length, 4, "nothing had to be put right");
});
