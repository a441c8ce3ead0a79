/**
 * The scrub of a running engine (data-safety 1.10, 3.2 #9): damage on the disk is found and written anew from memory, so that
 * the next start loses nothing by it; what is whole is never called damaged, whatever happens meanwhile.
 */
import test from "ava";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import type { ScrubResult } from "../../src/engine/engine-api.ts";
import { CopyLab, G, refusal } from "../support/copy-lab.ts";
import { checkLab, filesOf, outcomeOf } from "../support/state-check.ts";

const SMALL = 20 * G + 1536;

type Found = ScrubResult["findings"];

/** Scrubs everything. Time passes only where a scrub waits for it: copies that are held go no further. */
async function scrubAll(lab: CopyLab, uid?: string): Promise<Found[number][]> {
  const found: Found[number][] = [];
  for (const target of await lab.engine.scrubTargets(uid)) {
    let done = false;
    const scrubbing = lab.engine.scrub(target).finally(() => {
      done = true;
    });
    scrubbing.catch(() => undefined);
    for (let turn = 0; turn < 5000 && !done; turn++) {
      if (turn > 200) lab.lab.clock.advance(1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    found.push(...(await scrubbing).findings);
  }
  return found;
}

/** c1 tracks v1 to v2 with changes, c2 copies v3 to v4 and goes no further. */
async function running(t: Parameters<CopyLab["copy"]>[0]): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3, 7]);
  await lab.copy(t, "v3", "v4", "opc");
  await lab.lab.settle();
  return lab;
}

test("nothing is found while everything is whole, whatever happens meanwhile", async (t) => {
  const lab = await running(t);
  t.deepEqual(await scrubAll(lab), []);
  // Reading takes its time: files are replaced between two reads of one target.
  lab.lab.stateFiles.intercept = async ({ type }) => {
    for (let turn = 0; type === "read" && turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  };
  let over = false;
  const busy = (async () => {
    for (let round = 0; round < 12; round++) {
      await lab.touch("v1", [round, round + 4]);
      await lab.touch("v3", [round]);
      await lab.engine.setPace("c1", 1 + (round % 3));
      if (round % 3 === 0) await lab.restart("c1");
      if (round % 4 === 1) await lab.lab.finish();
      if (round === 6) await lab.copy(t, "v1", "v3", "opc", { pace: 15 }).catch(() => undefined);
    }
  })().finally(() => {
    over = true;
  });
  busy.catch(() => undefined);
  let scrubs = 0;
  while (!over) {
    t.deepEqual(await scrubAll(lab), []);
    scrubs++;
  }
  await busy;
  t.true(scrubs > 1);
});

const DAMAGE: readonly (readonly [what: string, apply: (content: Uint8Array) => Uint8Array | undefined])[] = [
  ["is gone", () => undefined],
  ["is empty", () => new Uint8Array(0)],
  ["is zeroed", (content) => new Uint8Array(content.length)],
  ["has a wrong byte in its header", (content) => flipped(content, 20)],
  ["has a wrong byte in its middle", (content) => flipped(content, Math.floor(content.length / 2) + 30)],
  ["has a wrong byte at its end", (content) => flipped(content, content.length - 1)],
  ["is cut by one byte", (content) => content.slice(0, content.length - 1)],
];

function flipped(content: Uint8Array, at: number): Uint8Array {
  const changed = content.slice();
  changed[at] = (changed[at] ?? 0) ^ 0x10;
  return changed;
}

for (const [what, apply] of DAMAGE)
  test(`every file in use that ${what}: found, written anew, and the next start loses nothing`, async (t) => {
    const whole = await running(t);
    await whole.lab.kill(1);
    const wanted = await outcomeOf(whole);
    const names = await filesOf(await running(t));
    for (const path of names) {
      const lab = await running(t);
      const { stateFiles } = lab.lab;
      const content = stateFiles.contents(path);
      const damaged = apply(content);
      if (damaged === undefined) await stateFiles.remove(path);
      else stateFiles.damage(path, damaged);
      const changed = damaged === undefined || Buffer.compare(damaged, content) !== 0;
      const found = await scrubAll(lab);
      t.is(
        found.some(({ finding }) => finding.path === path),
        changed,
        `${path}: ${JSON.stringify(found)}`,
      );
      t.true(
        found.every(({ repaired }) => repaired),
        JSON.stringify(found),
      );
      t.deepEqual(await scrubAll(lab), [], "it is whole now");
      await lab.touch("v3", [19]); // preserves for c2: its log takes records
      await lab.lab.halt(1);
      const { findings } = await checkLab(lab);
      t.deepEqual(
        findings.filter(({ severity }) => severity === "error"),
        [],
        path,
      );
      await lab.lab.boot();
      t.deepEqual(await outcomeOf(lab), wanted, path);
      await lab.lab.finish();
      await lab.holds(t, "v4", path);
    }
  });

test("a write that the disk has lost is found: a superblock that is whole, but of before", async (t) => {
  for (const path of ["sessions/c1/super", "volumes/v1/super"]) {
    const lab = await running(t);
    const before = lab.lab.stateFiles.contents(path);
    await lab.restart("c1");
    await lab.lab.finish();
    for (let step = 0; step < 5; step++) await lab.lab.step();
    t.notDeepEqual(lab.lab.stateFiles.contents(path), before);
    lab.lab.stateFiles.damage(path, before);
    const found = await scrubAll(lab);
    t.true(
      found.some(({ finding, repaired }) => finding.path === path && repaired),
      JSON.stringify(found),
    );
    t.deepEqual(await scrubAll(lab), []);
  }
});

test("one volume is scrubbed with its copies and the box's log, and nothing else", async (t) => {
  const lab = await running(t);
  t.deepEqual(await lab.engine.scrubTargets("v3"), [
    { kind: "points", id: "" },
    { kind: "session", id: "c2" },
  ]);
  await refusal(t, () => lab.engine.scrubTargets("v9"), "VOLUME_NOT_FOUND");
  t.deepEqual((await lab.engine.scrub({ kind: "session", id: "c77" })).findings, [], "it is over");
});

test("without room nothing is written anew and nothing is lost; with room again it is", async (t) => {
  const lab = await running(t);
  const { stateFiles } = lab.lab;
  const log = (await filesOf(lab)).find((path) => /c2\/copied-/.test(path)) ?? "";
  stateFiles.damage(log, new Uint8Array(stateFiles.contents(log).length));
  stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && path.endsWith(".new")) throw new InjectedFailure("ENOSPC");
  };
  const found = await scrubAll(lab);
  t.deepEqual(
    found.map(({ finding, repaired }) => [finding.path, repaired]),
    [[log, false]],
  );
  t.regex(found[0]?.finding.cost ?? "", /c2/);
  stateFiles.intercept = undefined;
  t.true((await scrubAll(lab)).every(({ repaired }) => repaired));
  await lab.touch("v3", [18]);
  await lab.lab.kill(1);
  await lab.lab.finish();
  await lab.holds(t, "v4");
});

test("a checkpoint that fails while a damaged log is replaced: records go on into the log that the superblock names", async (t) => {
  const lab = await running(t);
  const { stateFiles } = lab.lab;
  const log = (await filesOf(lab)).find((path) => /c2\/copied-/.test(path)) ?? "";
  const content = stateFiles.contents(log);
  stateFiles.damage(log, flipped(content, 50));
  stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && /c2\/(pending|super)/.test(path)) throw new InjectedFailure("ENOSPC");
  };
  t.false((await scrubAll(lab)).every(({ repaired }) => repaired));
  stateFiles.damage(log, content); // as if the disk had got over it
  await lab.touch("v3", [17]);
  stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  await lab.lab.finish();
  await lab.holds(t, "v4");
});

test("a volume that is taken out of the box while it is scrubbed is no damage", async (t) => {
  const lab = await running(t);
  await lab.engine.cancelSession("c1");
  let goOn: () => void = () => undefined;
  const slow = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  lab.lab.stateFiles.intercept = ({ type, path }) => (type === "open" && /v1\/al-/.test(path) ? slow : undefined);
  const scrubbing = lab.engine.scrub({ kind: "volume", id: "v1" });
  await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  await lab.engine.removeVolume("v1");
  goOn();
  t.deepEqual((await scrubbing).findings, []);
  t.false(await lab.lab.stateFiles.exists("volumes/v1"), "nothing of it was written anew");
  t.deepEqual(await scrubAll(lab), []);
});

test("a stop ends a scrub", async (t) => {
  const lab = await running(t);
  let goOn: () => void = () => undefined;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "read" && /c1\/copied-/.test(path)) return new Promise((resolve) => (goOn = resolve));
  };
  const refused = refusal(t, () => lab.engine.scrub({ kind: "session", id: "c1" }), "STOPPING");
  await lab.lab.settle();
  const stopped = lab.engine.stop();
  await lab.lab.settle();
  goOn();
  await refused;
  await stopped;
});
