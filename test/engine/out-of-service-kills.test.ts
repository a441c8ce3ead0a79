/**
 * Kills and power losses in runs that leave something alone: at every step of such a start and of what the others do in it
 * (data-safety 1.10: every step of recovery can be repeated).
 */
import test, { type ExecutionContext } from "ava";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, G } from "../support/copy-lab.ts";
import { restore, type Snapshot, snapshotOf } from "../support/state-check.ts";

const SMALL = 20 * G + 1536;
const BARRED = "volumes/v1/super";
const CHANGES: ReadonlySet<string> = new Set(["write", "truncate", "rename", "remove", "syncDirectory", "sync"]);
const isLeftAlone = (path: string) => /^(sessions\/c1|volumes\/v[12])(\/|$)/.test(path);

/** c1 tracks v1 to v2, c2 tracks v3 to v4. The last points of both are in the points log only; killed. */
async function killed(t: ExecutionContext): Promise<{ lab: CopyLab; generation: number }> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
  for (const [source, destination] of [
    ["v1", "v2"],
    ["v3", "v4"],
  ] as const)
    await lab.copy(t, source, destination, "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.reboot();
  await lab.touch("v1", [3, 7]);
  await lab.touch("v3", [5]);
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "write" && /^(sessions|volumes)\//.test(path) && /super|\.map/.test(path)
      ? new Promise(() => undefined)
      : undefined;
  const { generation } = await lab.restart("c1");
  await lab.restart("c2");
  await lab.lab.halt(1);
  return { lab, generation };
}

/** The file must not be opened, and everything stops at the `step`-th change. */
function forbid(lab: CopyLab, step: number, touched: string[]): { reached: () => boolean; at: Promise<void> } {
  let steps = 0;
  let arrive: () => void = () => undefined;
  const at = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "open" && path === BARRED) throw new InjectedFailure("EACCES");
    if (!CHANGES.has(type)) return undefined;
    if (isLeftAlone(path) && type !== "sync" && type !== "syncDirectory") touched.push(`${type} ${path}`);
    if (++steps < step) return undefined;
    arrive();
    return new Promise(() => undefined);
  };
  return { reached: () => steps >= step, at };
}

/** Until it has been killed: what comes then is another process. */
async function run(lab: CopyLab, isKilled: () => boolean): Promise<void> {
  for (const part of [() => lab.lab.boot(), () => lab.restart("c2"), () => lab.lab.finish(), () => lab.engine.stop()]) {
    if (isKilled()) return;
    await part();
  }
}

for (const end of ["kill", "crash"] as const)
  test(`a ${end} at any step of a run that leaves a copy alone: its point is there, nothing of it was touched`, async (t) => {
    const { lab, generation } = await killed(t);
    const before: Snapshot = await snapshotOf(lab);
    const disks = [...lab.lab.disks.values()].map(({ memory }) => memory);
    const images = await Promise.all([...lab.lab.disks.keys()].map((name) => lab.lab.physical(name)));
    // Every second step for each: together all of them.
    for (let step = end === "kill" ? 1 : 2; ; step += 2) {
      await restore(lab, before);
      for (const [index, image] of images.entries()) await disks[index]?.write(0, image);
      const touched: string[] = [];
      const { reached, at } = forbid(lab, step, touched);
      await Promise.race([at, run(lab, reached).catch(() => undefined)]);
      await lab.lab.settle();
      const isLast = !reached();
      await lab.lab.halt(step);
      if (end === "crash") lab.lab.stateFiles.crash(step);
      t.deepEqual(touched, [], `step ${step}`);
      // Once more without permission, then with it.
      forbid(lab, Number.MAX_SAFE_INTEGER, touched);
      await lab.lab.boot();
      t.is((await lab.session("c2")).failure, undefined, `step ${step}`);
      await lab.lab.finish();
      await lab.lab.halt(step);
      lab.lab.stateFiles.intercept = undefined;
      await lab.lab.boot();
      t.like(await lab.session("c1"), { generation, failure: undefined }, `step ${step}`);
      await lab.lab.finish();
      await lab.holds(t, "v2", `step ${step}`);
      await lab.restart("c2");
      await lab.lab.finish();
      await lab.holds(t, "v4", `step ${step}`);
      t.deepEqual(touched, [], `step ${step}`);
      if (isLast) {
        t.log(`${step} steps`);
        break;
      }
    }
  });
