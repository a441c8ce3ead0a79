/**
 * The end of a session and its record elsewhere (data-safety 1.4 "finish", 1.9): whenever the box is killed, the session is
 * either still there or told to have ended, as what it was, until it is forgotten.
 */
import test, { type ExecutionContext } from "ava";
import { CopyLab, G } from "../support/copy-lab.ts";

const SIZE = 6 * G + 512;
const STEPS_MAX = 200;

const directory = (lab: CopyLab) => lab.lab.stateFiles.list("sessions/c1");

async function tracked(t: ExecutionContext): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [2, 5]);
  return lab;
}

test("an ended session is told again at each start, as what it was, until it is forgotten", async (t) => {
  const lab = await tracked(t);
  const { session, destinationUsable } = await lab.engine.cancelSession("c1");
  t.true(destinationUsable);
  t.is(session.changedGranules, 2);
  t.false(session.tracking, "what has ended tracks nothing");
  t.deepEqual(await directory(lab), ["super"], "maps and logs are gone at once");
  for (const how of ["kill", "clean stop"]) {
    await (how === "kill" ? lab.lab.kill(2) : lab.lab.reboot());
    t.deepEqual(lab.lab.found?.sessions, [], how);
    const [ended] = lab.lab.found?.ended ?? [];
    t.is(ended?.destinationUsable, true);
    t.deepEqual({ ...ended?.session, etaSeconds: 0 }, { ...session, etaSeconds: 0 }, how);
  }
  await lab.engine.forgetSession("c1");
  await lab.engine.forgetSession("c1");
  await lab.engine.forgetSession("c99");
  t.deepEqual(await lab.lab.stateFiles.list("sessions"), []);
  await lab.lab.reboot();
  t.deepEqual(lab.lab.found?.ended, []);
  await lab.engine.stop();
});

test("a session that ends by itself is kept too: a copy that was cancelled half done is told as not usable", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc", { pace: 15 });
  await lab.copy(t, "v1", "v3", "opc", { pace: 1 });
  await lab.engine.cancelSession("c2");
  for (let turn = 0; turn < 100 && (await lab.engine.sessions()).length > 0; turn++) await lab.lab.step();
  await lab.lab.kill(1);
  const told = lab.lab.found?.ended.map(({ session, destinationUsable }) => [
    session.id,
    session.phase,
    destinationUsable,
    session.pendingGranules === 0,
  ]);
  t.deepEqual(told, [
    ["c1", "completed", true, true],
    ["c2", "cancelled", false, false],
  ]);
  await lab.engine.stop();
});

/** Kills at this step of ending c1 and forgetting it; false when there are fewer steps. */
async function killedAt(t: ExecutionContext, step: number): Promise<boolean> {
  const lab = await tracked(t);
  await lab.lab.settle();
  let steps = 0;
  lab.lab.stateFiles.intercept = () => (++steps < step ? undefined : new Promise(() => undefined));
  let ended = false;
  let forgotten = false;
  const running = lab.engine.cancelSession("c1").then(async () => {
    ended = true;
    await lab.engine.forgetSession("c1");
    forgotten = true;
  });
  for (let turn = 0; turn < 3; turn++) await lab.lab.settle();
  await Promise.race([running, lab.lab.settle()]);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(step % 7);
  const { sessions, ended: told } = lab.lab.found ?? { sessions: [], ended: [] };
  const found = [...sessions.map(({ id }) => id), ...told.map(({ session }) => session.id)];
  if (forgotten) t.deepEqual(found, [], `step ${step}: forgotten`);
  else if (!ended) t.deepEqual(found, ["c1"], `step ${step}: it never vanishes`);
  else t.true(found.length <= 1, `step ${step}: it was being forgotten`);
  if (told.length > 0) t.like(told[0], { destinationUsable: true, session: { phase: "cancelled" } });
  if (ended) t.deepEqual(sessions, [], `step ${step}: what was told is so`);
  await lab.engine.stop();
  return steps >= step;
}

test("killed at every step of an end: the session is there, or it is told to have ended", async (t) => {
  let step = 1;
  while (await killedAt(t, step)) if (++step > STEPS_MAX) throw new Error("it does not end");
  t.log(`${step} steps`);
  t.true(step > 5);
});
