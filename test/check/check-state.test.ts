/**
 * The offline check of the state directory (data-safety 3.2 #9 "any one damaged/stale metadata page is detected"): it finds
 * what is wrong with file, place, cost and remedy, says nothing about what is right, and changes nothing.
 */
import test, { type ExecutionContext } from "ava";
import { CopyLab, G } from "../support/copy-lab.ts";
import { checkLab, filesOf, outcomeOfStart, restore, snapshotOf } from "../support/state-check.ts";

const SMALL = 20 * G + 1536;

/** c1 tracks v1 to v2, c2 copies v3 to v4 and is not done; the box is stopped in order. */
async function stopped(t: ExecutionContext): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  await lab.copy(t, "v3", "v4", "opc");
  await lab.engine.stop();
  return lab;
}

test("nothing is found after a clean stop, nor in a new state directory", async (t) => {
  const lab = await stopped(t);
  const { findings, files, bytes } = await checkLab(lab);
  t.deepEqual(findings, []);
  t.is(files, (await filesOf(lab)).length, "every file was looked at");
  t.true(bytes > 0);
  const fresh = await CopyLab.start(t, []);
  await fresh.engine.stop();
  t.deepEqual((await checkLab(fresh)).findings, []);
});

/** Ways in which one file goes bad; undefined: the file is gone. */
const DAMAGE: readonly (readonly [what: string, apply: (content: Uint8Array) => Uint8Array | undefined])[] = [
  ["is gone", () => undefined],
  ["is empty", () => new Uint8Array(0)],
  ["is zeroed", (content) => new Uint8Array(content.length)],
  ["has a wrong byte in its header", (content) => flipped(content, 20)],
  ["has a wrong byte in its middle", (content) => flipped(content, Math.floor(content.length / 2))],
  ["has a wrong byte at its end", (content) => flipped(content, content.length - 1)],
  ["is cut in its middle", (content) => content.slice(0, Math.floor(content.length / 2))],
  ["is cut by one byte", (content) => content.slice(0, content.length - 1)],
  ["has bytes behind its end", (content) => Buffer.concat([content, Buffer.alloc(100, 7)])],
];

function flipped(content: Uint8Array, at: number): Uint8Array {
  const changed = content.slice();
  changed[at] = (changed[at] ?? 0) ^ 0x10;
  return changed;
}

test("every damage to every file is found, and costs at the next start what the check says: something or nothing", async (t) => {
  const lab = await stopped(t);
  await lab.lab.stateFiles.remove("clean-stop.log");
  const snapshot = await snapshotOf(lab);
  const whole = await outcomeOfStart(lab);
  t.deepEqual(Object.keys(whole), ["c1", "c2"]);
  for (const path of snapshot.keys())
    for (const [what, apply] of DAMAGE) {
      if (path.endsWith("/super") && what === "has bytes behind its end") continue; // they belong to no slot
      await restore(lab, snapshot);
      const damaged = apply(snapshot.get(path) ?? new Uint8Array(0));
      if (damaged === undefined) await lab.lab.stateFiles.remove(path);
      else lab.lab.stateFiles.damage(path, damaged);
      const before = await snapshotOf(lab);
      const { findings } = await checkLab(lab);
      t.deepEqual(await snapshotOf(lab), before, "a check changes nothing");
      const outcome = await outcomeOfStart(lab);
      const title = `${path} ${what}: ${JSON.stringify(findings)}, ${JSON.stringify(outcome)}`;
      const costs = findings.some(({ severity }) => severity === "error");
      t.is(costs, JSON.stringify(outcome) !== JSON.stringify(whole), title);
      const places = [path, path.replace(/\/[^/]*$/, ""), path.replace(/^points-\d+/, "points-*")];
      t.true(
        findings.some((finding) => places.includes(finding.path)),
        title,
      );
      for (const { message, remedy } of findings) t.true(message !== "" && remedy !== "", title);
    }
});
