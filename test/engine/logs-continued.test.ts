/** data-safety 1.8: which logs belong together is in the logs themselves: none is missed, and none of another life is taken. */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { MiB } from "../../src/base/units.ts";
import { InjectedFailure, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import type { MetadataFinding } from "../../src/engine/engine-api.ts";
import { loadCore } from "../../src/engine/map/core.ts";
import type { EnginePorts } from "../../src/engine/ports.ts";
import type { RecoveredPoint } from "../../src/engine/session/points-log.ts";
import { ChangeChain } from "../../src/engine/volume/change-chain.ts";
import { Volume } from "../../src/engine/volume/volume.ts";
import { VolumeTracking } from "../../src/engine/volume/volume-tracking.ts";
import { CopyLab, G } from "../support/copy-lab.ts";
import { checkLab, snapshotOf } from "../support/state-check.ts";

const SIZE = 12 * MiB; // three regions
const LONG = 16 * MiB;

/** v1 is tracked to v2, with so many slots, and begins a new activity log only when `checkpointBytes` is made small. */
async function tracked(t: ExecutionContext, slots: number) {
  const lab = await CopyLab.start(t, [SIZE, SIZE], { jobBytes: MiB });
  const bounds = { slots, checkpointBytes: LONG };
  lab.lab.activity = bounds;
  await lab.lab.kill(1);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  return { lab, bounds };
}

/** A write begins a new log. */
async function beginsSecondLog(lab: CopyLab, bounds: { checkpointBytes: number }, granule = 0): Promise<void> {
  bounds.checkpointBytes = 4096;
  await lab.touch("v1", [granule]);
  await lab.lab.settle();
  bounds.checkpointBytes = LONG;
}

const outOfSpace = (pattern: RegExp) => (operation: { readonly type: string; readonly path: string }) => {
  if (operation.type === "write" && pattern.test(operation.path)) throw new InjectedFailure("ENOSPC");
};

const logsOf = async (lab: CopyLab) =>
  (await lab.lab.stateFiles.list("volumes/v1")).filter((name) => name.startsWith("al-"));

const troublesOf = (lab: CopyLab) =>
  lab.lab.events.flatMap((event) => (event.type === "engine.trouble" ? [event.message] : []));

const errorsOf = (findings: readonly MetadataFinding[]) =>
  findings.filter(({ severity }) => severity === "error").map(({ path }) => path);

for (const [what, elsewhere, granule] of [
  ["agrees with the new log", false, 3],
  ["does not agree with it", true, 700],
] as const)
  test(`a removal that was cut off leaves a log, which ${what}: tracked anew, the volume has nothing of it`, async (t) => {
    const { lab, bounds } = await tracked(t, 1);
    await beginsSecondLog(lab, bounds);
    if (elsewhere) await lab.touch("v2", [0]);
    await lab.touch("v1", [600]); // region 0 is evicted, in al-2
    await lab.lab.settle();
    await lab.engine.cancelSession("c1");
    lab.lab.stateFiles.intercept = ({ type, path }) =>
      type === "remove" && /^volumes\/v1\/al-/.test(path) ? new Promise(() => undefined) : undefined;
    void lab.engine.removeVolume("v1").catch(() => undefined);
    await lab.lab.settle();
    lab.lab.stateFiles.intercept = undefined;
    await lab.lab.kill(2); // the volume is still registered
    t.deepEqual(await logsOf(lab), ["al-2.log"]);
    await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
    await lab.lab.finish();
    t.deepEqual(await logsOf(lab), ["al-1.log"]);
    await lab.touch("v1", [granule]);
    await lab.lab.settle();
    await lab.lab.kill(3);
    t.is((await lab.restart("c2")).reason, "MAP_WIDENED");
    await lab.lab.finish();
    await lab.reads(t, "v2");
  });

for (const end of ["kill", "crash"] as const)
  test(`a removal ended by a ${end} at each of its steps: the volume tracks on, or anew, and nothing is wrong or told`, async (t) => {
    for (let last = 1, done = false; !done; last++) {
      t.true(last < 40);
      const { lab, bounds } = await tracked(t, 1);
      await beginsSecondLog(lab, bounds);
      await lab.touch("v1", [600]);
      await lab.lab.settle();
      await lab.engine.cancelSession("c1");
      await lab.engine.forgetSession("c1");
      let steps = 0;
      lab.lab.stateFiles.intercept = ({ type }) =>
        type === "read" || ++steps < last ? undefined : new Promise<void>(() => undefined);
      void lab.engine.removeVolume("v1").catch(() => undefined);
      await lab.lab.settle();
      done = steps < last;
      await lab.lab.halt(last);
      if (end === "crash") lab.lab.stateFiles.crash(last);
      lab.lab.stateFiles.intercept = undefined;
      await lab.lab.boot();
      t.deepEqual(troublesOf(lab), [], `step ${last}`);
      await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
      await lab.lab.finish();
      await lab.touch("v1", [3]);
      await lab.lab.settle();
      await lab.lab.kill(3);
      t.is((await lab.restart("c2")).reason, "MAP_WIDENED", `step ${last}`);
      await lab.lab.finish();
      await lab.reads(t, "v2", `step ${last}`);
    }
  });

test("the activity log in use is missing, and the superblock names the one before: told, and the next copy is full", async (t) => {
  const { lab, bounds } = await tracked(t, 8);
  lab.lab.stateFiles.intercept = outOfSpace(/^volumes\/v1\/epoch/);
  await beginsSecondLog(lab, bounds); // and no superblock that names it
  await lab.touch("v1", [600]);
  await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.halt(1);
  t.deepEqual(errorsOf((await checkLab(lab)).findings), []);
  await lab.lab.stateFiles.remove("volumes/v1/al-2.log");
  t.deepEqual(errorsOf((await checkLab(lab)).findings), ["volumes/v1/al-2.log"]);
  await lab.lab.boot();
  t.true(troublesOf(lab).some((text) => text.includes("al-2.log")));
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.reads(t, "v2");
});

test("the name of the next log does not come from nowhere: a log that was in use and that nobody names is damage", async (t) => {
  const { lab, bounds } = await tracked(t, 8);
  lab.lab.stateFiles.intercept = outOfSpace(/^volumes\/v1\/epoch/);
  const before = lab.lab.stateFiles.contents("volumes/v1/al-1.log");
  await beginsSecondLog(lab, bounds);
  await lab.touch("v1", [600]);
  await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.halt(1);
  lab.lab.stateFiles.damage("volumes/v1/al-1.log", before); // as it was, so that it names nothing
  t.deepEqual(errorsOf((await checkLab(lab)).findings), ["volumes/v1/al-2.log"]);
  await lab.lab.boot();
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.reads(t, "v2");
});

test("no room for the name of the next log, then a kill: the log before it goes on, and the next attempt takes another number", async (t) => {
  const { lab, bounds } = await tracked(t, 8);
  let begun = false;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "rename" && path === "volumes/v1/al-2.log.new") begun = true;
    if (begun && type === "write" && path === "volumes/v1/al-1.log") throw new InjectedFailure("ENOSPC");
  };
  await beginsSecondLog(lab, bounds);
  t.true(begun);
  lab.lab.stateFiles.intercept = undefined;
  await lab.touch("v1", [600]);
  await lab.lab.settle();
  t.deepEqual(await logsOf(lab), ["al-1.log", "al-2.log"]);
  t.deepEqual(errorsOf((await checkLab(lab)).findings), []);
  await lab.lab.kill(1);
  t.deepEqual(troublesOf(lab), []);
  await beginsSecondLog(lab, bounds, 1100);
  await lab.touch("v1", [700]);
  await lab.lab.settle();
  t.deepEqual(await logsOf(lab), ["al-3.log"]);
  await lab.lab.kill(2);
  t.is((await lab.restart("c1")).reason, "MAP_WIDENED");
  await lab.lab.finish();
  await lab.reads(t, "v2");
});

test("the newest points log is missing beside one before it: told, and a copy of which a point may be lost has failed", async (t) => {
  const lab = await CopyLab.start(t, [20 * G, 20 * G]);
  const keepsFirst = ({ type, path }: { readonly type: string; readonly path: string }) => {
    if (type === "remove" && /^points-1/.test(path)) throw new InjectedFailure("EIO");
    return undefined;
  };
  lab.lab.stateFiles.intercept = keepsFirst;
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  lab.lab.stateFiles.intercept = (operation) => {
    const { type, path } = operation;
    return type === "write" && /c1\/pending/.test(path) ? new Promise<void>(() => undefined) : keepsFirst(operation);
  };
  await lab.touch("v1", [3]);
  t.is((await lab.restart("c1")).generation, 2);
  const newest = (await lab.lab.stateFiles.list("")).filter((name) => name.startsWith("points-")).at(-1) ?? "";
  t.not(newest, "points-1.log");
  await lab.lab.halt(1);
  lab.lab.stateFiles.intercept = undefined;
  t.deepEqual(errorsOf((await checkLab(lab)).findings), []);
  await lab.lab.stateFiles.remove(newest);
  t.deepEqual(errorsOf((await checkLab(lab)).findings), [newest]);
  await lab.lab.boot();
  t.true(troublesOf(lab).some((text) => text.includes(newest)));
  t.is((await lab.session("c1")).phase, "failed");
  // What follows is durable: another start says it once more only while the older log is there.
  await lab.lab.settle();
  await lab.lab.kill(2);
  t.false(troublesOf(lab).some((text) => text.includes(newest)));
  t.false((await snapshotOf(lab)).has(newest));
});

test("a points log that was made and not named yet when the kill came is in use from then on, and its loss is noticed", async (t) => {
  const lab = await CopyLab.start(t, [20 * G, 20 * G]);
  let made = false;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "rename" && path === "points-2.log.new") made = true;
    return made && type === "write" && path === "points-1.log" ? new Promise<void>(() => undefined) : undefined;
  };
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.settle();
  t.true(made);
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "remove" && /^points-/.test(path) ? new Promise<void>(() => undefined) : undefined;
  await lab.lab.halt(1);
  await lab.lab.boot();
  await lab.lab.halt(2);
  lab.lab.stateFiles.intercept = undefined;
  const names = (await lab.lab.stateFiles.list("")).filter((name) => name.startsWith("points-"));
  t.true(names.length > 1, names.join());
  await lab.lab.stateFiles.remove(names.at(-1) ?? "");
  t.deepEqual(errorsOf((await checkLab(lab)).findings), [names.at(-1) ?? ""]);
  await lab.lab.boot();
  t.true(troublesOf(lab).some((text) => text.includes(names.at(-1) ?? "")));
});

test("a chain that cannot be put together leaves no file open, whatever it fails on", async (t) => {
  const { lab, bounds } = await tracked(t, 8);
  await beginsSecondLog(lab, bounds);
  await lab.engine.stop();
  const snapshot = await snapshotOf(lab);
  for (const broken of ["super", ...(await logsOf(lab)), "more"]) {
    const files = memoryStateFiles();
    for (const directory of ["volumes", "volumes/v1"]) await files.makeDirectory(directory);
    for (const [path, content] of snapshot) if (path.startsWith("volumes/v1/")) files.damage(path, content);
    if (broken !== "more") files.damage(`volumes/v1/${broken}`, new Uint8Array(9000));
    let open = 0;
    const counting: StateFiles = new Proxy<StateFiles>(files, {
      get: (target, property) => {
        if (property !== "open") return (Reflect.get(target, property) as () => unknown).bind(target);
        return async (...args: Parameters<StateFiles["open"]>) => {
          const file = await target.open(...args);
          open++;
          return { ...file, close: () => file.close().then(() => void open--) };
        };
      },
    });
    const core = await loadCore();
    const chain = new ChangeChain(core, "v1", SIZE / G, 1);
    const volume = new Volume({ uid: "v1", name: "v1", path: "v1", chain, onFailure: () => undefined });
    const bad = {
      get seals(): never {
        throw new TidemarkError("METADATA_CORRUPT", { message: "no seals" });
      },
    };
    const points = broken === "more" ? [bad as unknown as RecoveredPoint] : [];
    const ports = { files: counting, core, activity: { slots: 8, checkpointBytes: LONG } } as unknown as EnginePorts;
    await t.throwsAsync(VolumeTracking.open(ports, volume, points), { code: "METADATA_CORRUPT" }, broken);
    t.is(open, 0, broken);
  }
});
