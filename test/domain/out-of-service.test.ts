/**
 * A state file that must not be opened, as users see it: the copies and volumes that have to do with it are shown, with the
 * reason, and refused; nothing of them is taken for vanished; the others go on (issue 3, bad input; data-safety 1.9, 1.10).
 */
import test, { type ExecutionContext } from "ava";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { copyService } from "../../src/server/services/copy-service.ts";
import { openMemoryStore } from "../../src/store/memory/memory.ts";
import { ask, KillableBox } from "../support/killable-box.ts";
import { refusal } from "./box-fixture.ts";

const page = { pageSize: 0, pageToken: "" };
const SUPER = /^open sessions\/c1\/super$/;
/** Also what says without it which volumes it has to do with. */
const EVERYTHING = /^open sessions\/c1\//;

/** c1 tracks g1d1 to g1d2, c2 tracks g1d3 to g1d4. */
async function tracked(t: ExecutionContext): Promise<KillableBox> {
  const killable = await KillableBox.make(t, 5);
  for (const [source, destination] of [
    ["g1d1", "g1d2"],
    ["g1d3", "g1d4"],
  ] as const)
    await killable.box.copies.start({ pairs: [{ source, destination }], kind: "quickopc", pace: 15 }, () => []);
  await killable.finish();
  for (const name of ["g1d1", "g1d3"]) await killable.box.exports.add({ name, readOnly: true }, () => []);
  return killable;
}

function forbid(killable: KillableBox, pattern: RegExp): void {
  killable.intercept((step) => {
    if (pattern.test(step)) throw new InjectedFailure("EACCES");
    return undefined;
  });
}

async function restarted(killable: KillableBox, pattern: RegExp | undefined): Promise<void> {
  await killable.stop();
  if (pattern) forbid(killable, pattern);
  else killable.intercept(() => undefined);
  await killable.start();
  await killable.settle();
}

const listed = async ({ box }: KillableBox) =>
  (await box.copies.list({ volume: "", ended: "include" }, page)).items.map(({ id, phase }) => `${id} ${phase}`);

const eventsOf = (killable: KillableBox, subject: string, type: string) =>
  killable.box.events(subject, { pageSize: 1000, pageToken: "" }).items.filter((event) => event.type === type);

for (const [what, pattern] of [
  ["superblock", SUPER],
  ["files", EVERYTHING],
] as const)
  test(`a copy whose ${what} must not be opened is shown as last known with the reason, and refused`, async (t) => {
    const killable = await tracked(t);
    const before = await killable.box.copies.get("c1");
    await restarted(killable, pattern);
    const { copies, volumes } = killable.box;
    t.deepEqual(await listed(killable), ["c1 tracking", "c2 tracking"]);
    const { failure, ...shown } = await copies.get("c1");
    t.like(shown, { phase: "tracking", kind: "quickopc", generation: before.generation, pointMs: before.pointMs });
    t.regex(
      failure?.message ?? "",
      /out of service: state file sessions\/c1\/super .*; give the state directory back.*start the daemon again/,
    );
    t.deepEqual(
      (await copies.list({ volume: "g1d2", ended: "leave-out" }, page)).items.map(({ id }) => id),
      ["c1"],
    );
    for (const command of [
      () => copies.restart(["c1"], () => []),
      () => copies.restart(["c2", "c1"], () => []),
      () => copies.cancel("c1", () => []),
      () => copies.stopTracking("c1", () => []),
      () => copies.setPace("c1", 3, () => []),
      () => volumes.delete({ name: "g1d2", file: "keep" }, () => undefined as never),
      () => volumes.resize({ name: "g1d2", sizeBytes: 1 << 19, shrink: "refuse" }, () => []),
      () => volumes.resize({ name: "g1d2", sizeBytes: 1 << 17, shrink: "allow" }, () => []),
      () => killable.box.reopenVolume("g1d2", () => []),
      () => copies.explain({ source: "g1d2", destination: "g1d5", kind: "opc" }),
    ]) {
      const error = await refusal(t, command, "OUT_OF_SERVICE");
      t.regex(error?.message ?? "", /sessions\/c1\/super/);
      t.regex(error?.detail.hint ?? "", /start the daemon again/);
    }
    for (const pair of [
      { source: "g1d1", destination: "g1d5" },
      { source: "g1d5", destination: "g1d2" },
    ]) {
      const error = await refusal(
        t,
        () => copies.start({ pairs: [pair], kind: "opc", pace: 0 }, () => []),
        "OUT_OF_SERVICE",
      );
      t.regex(error?.message ?? "", /sessions\/c1\/super/);
    }
    t.is((await killable.store.get("volumes", (await volumes.get("g1d2")).row.uid))?.resizingToBytes, 0);
    // Seen by whoever looks: volumes, exports, doctor, events.
    t.is((await volumes.get("g1d1")).status.failure?.code, "OUT_OF_SERVICE");
    t.deepEqual([...killable.box.exports.unavailable.keys()], ["g1d1"]);
    const findings = (await killable.box.diagnose()).filter(({ severity }) => severity === "error");
    t.deepEqual(findings.map(({ check, subject }) => `${check} ${subject}`).sort(), [
      "copy-out-of-service c1",
      "export-unavailable g1d1",
      "volume-unavailable g1d1",
      "volume-unavailable g1d2",
    ]);
    for (const { check, message, remedy } of findings) {
      t.regex(message, /sessions\/c1\/super/);
      if (check !== "export-unavailable") t.regex(remedy, /start the daemon again/);
      t.notRegex(remedy, /volume reopen/, check);
    }
    t.is(eventsOf(killable, "c1", "copy.out-of-service").length, 1);
    t.is(eventsOf(killable, "g1d2", "volume.failed").length, 1);
    // The others.
    await copies.restart(["c2"], () => []);
    await killable.finish();
    t.is(
      (await copies.start({ pairs: [{ source: "g1d3", destination: "g1d5" }], kind: "opc", pace: 15 }, () => []))[0]
        ?.id,
      "c3",
    );
    await killable.finish();
    await restarted(killable, undefined);
    t.deepEqual(await listed(killable), ["c1 tracking", "c2 tracking", "c3 completed"]);
    t.is((await killable.box.copies.get("c1")).failure, undefined);
    for (const type of ["copy.lost", "copy.corrected", "copy.adopted", "copy.failed"])
      t.deepEqual(eventsOf(killable, "c1", type), [], type);
    t.is((await killable.box.copies.restart(["c1"], () => []))[0]?.reason, "DIFFERENCE");
  });

test("a copy without a row is shown by what its files say, and adopted when they may be opened again", async (t) => {
  const killable = await tracked(t);
  const { uid } = (await killable.box.volumes.get("g1d1")).row;
  await killable.stop();
  const store = await openMemoryStore(killable.storeDisk);
  await store.commit([{ table: "copies", remove: 1 }]);
  await store.close();
  forbid(killable, new RegExp(`^open volumes/${uid}/super$`));
  await killable.start();
  t.deepEqual(await listed(killable), ["c1 copying", "c2 tracking"], "whether everything is copied its maps would say");
  await refusal(t, () => killable.box.copies.cancel("c1", () => []), "OUT_OF_SERVICE");
  await restarted(killable, undefined);
  t.deepEqual(await listed(killable), ["c1 tracking", "c2 tracking"]);
  t.is(eventsOf(killable, "c1", "copy.adopted").length, 1);
});

test("a watch of a copy that is out of service ends", async (t) => {
  const killable = await tracked(t);
  await restarted(killable, SUPER);
  const seen: string[] = [];
  const { signal } = new AbortController();
  for await (const { phase } of killable.box.watches.copy("c1", { until: "copied", signal })) seen.push(phase);
  t.deepEqual(seen, ["tracking"]);
});

/** Of a request that the daemon died in, nobody can say whether it was carried out while its copy is out of service. */
test("a request that was cut short is not decided before its copy is there again, and then acts once", async (t) => {
  let carriedOut = 0;
  for (let step = 1; ; step++) {
    const killable = await tracked(t);
    const service = () =>
      copyService({ box: killable.box, requests: killable.box.requests, log: () => undefined } as never);
    const request = () => ask(service().restartCopy, { ids: ["c1"], requestId: "r1" });
    await killable.settle();
    let steps = 0;
    killable.intercept(() => (++steps < step ? undefined : new Promise<never>(() => undefined)));
    let answered = false;
    const first = request().then(
      () => {
        answered = true;
      },
      () => undefined,
    );
    await Promise.race([first, killable.settle()]);
    await killable.settle();
    const isLast = steps < step;
    await killable.die(1);
    forbid(killable, SUPER);
    await killable.start();
    if (!answered) await t.throwsAsync(request, { message: /out of service/ }, `step ${step}`);
    await killable.die(2);
    await killable.start();
    const { generation } = await killable.box.copies.get("c1");
    if (generation === 2) carriedOut++;
    await request();
    t.is((await killable.box.copies.get("c1")).generation, 2, `step ${step}`);
    await killable.die(3);
    if (isLast) break;
  }
  t.true(carriedOut > 0);
});
