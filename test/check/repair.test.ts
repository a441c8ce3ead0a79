/** Repair: what it makes durable is what the next start would have made of the state, and nothing is found afterwards. */
import test from "ava";
import { repairState } from "../../src/engine/check/repair.ts";
import { CopyLab, G } from "../support/copy-lab.ts";
import { brief, checkLab, filesOf, outcomeOfStart, restore, snapshotOf, specsOf } from "../support/state-check.ts";

const SMALL = 20 * G + 1536;

/** Killed with a point that only the points log has, regions hot, a copy under way, and things left over. */
async function killed(t: Parameters<typeof CopyLab.start>[0] & Parameters<CopyLab["copy"]>[0]): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL, SMALL, SMALL]);
  const { stateFiles } = lab.lab;
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  await lab.copy(t, "v3", "v4", "opc");
  await lab.lab.settle();
  stateFiles.intercept = ({ path }) => (/c3\/pending-/.test(path) ? new Promise(() => undefined) : undefined);
  await lab.copy(t, "v5", "v6", "quickopc");
  await lab.lab.halt(1);
  stateFiles.intercept = undefined;
  stateFiles.damage("points-9.log.new", new Uint8Array(10));
  stateFiles.damage("volumes/v1/epoch-1-99.map.new", new Uint8Array(10));
  stateFiles.damage("sessions/c1/pending-99.map.new", new Uint8Array(10));
  return lab;
}

test("what a kill leaves is put right, and the copies are as after an ordinary start", async (t) => {
  const lab = await killed(t);
  const before = await checkLab(lab);
  t.true(before.findings.length >= 3, JSON.stringify(before.findings));
  t.true(before.findings.every(({ severity, repairable }) => severity === "warning" && repairable));
  const snapshot = await snapshotOf(lab);
  const wanted = await outcomeOfStart(lab);
  await restore(lab, snapshot);
  const { after } = await repairState(lab.lab.stateFiles, specsOf(lab));
  t.deepEqual(after.findings, []);
  t.false((await filesOf(lab)).some((path) => path.endsWith(".new")));
  t.deepEqual(await outcomeOfStart(lab), wanted);
  await lab.lab.finish();
});

for (const apply of ["zero", "remove", "flip"] as const)
  test(`damage to any file (${apply}): repaired, it costs what a start without repair costs`, async (t) => {
    const lab = await killed(t);
    const snapshot = await snapshotOf(lab);
    for (const [path, content] of snapshot) {
      await restore(lab, snapshot);
      if (apply === "remove") await lab.lab.stateFiles.remove(path);
      else {
        const damaged = apply === "zero" ? new Uint8Array(content.length) : content.slice();
        if (apply === "flip") damaged[60] = (damaged[60] ?? 0) ^ 1;
        lab.lab.stateFiles.damage(path, damaged);
      }
      const mutated = await snapshotOf(lab);
      const { findings } = await checkLab(lab);
      const wanted = await outcomeOfStart(lab);
      await restore(lab, mutated);
      const { after } = await repairState(lab.lab.stateFiles, specsOf(lab));
      const left = after.findings.filter(({ severity }) => severity !== "info");
      t.deepEqual(brief(left), [], `${path}: ${JSON.stringify(findings)}`);
      t.deepEqual(await outcomeOfStart(lab), wanted, `${path}: ${JSON.stringify(findings)}`);
    }
  });
