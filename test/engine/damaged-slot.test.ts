/** A superblock with one damaged slot is survived; after a clean stop somebody has to look at the disk (data-safety 1.8). */
import test, { type ExecutionContext } from "ava";
import { SUPERBLOCK_SLOT_BYTES } from "../../src/engine/durable/superblock.ts";
import { CopyLab, G } from "../support/copy-lab.ts";

const SIZE = 8 * G;

async function tracked(t: ExecutionContext): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [2]);
  return lab;
}

/** Damages the slot that does not count. */
async function damageOlderSlot(lab: CopyLab, path: string): Promise<void> {
  const file = await lab.lab.stateFiles.open(path, { create: "must-exist" });
  const sequences: bigint[] = [];
  for (const slot of [0, 1]) {
    const bytes = await file.read(slot * SUPERBLOCK_SLOT_BYTES, SUPERBLOCK_SLOT_BYTES);
    sequences.push(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(16, true));
  }
  const older = (sequences[0] ?? 0n) < (sequences[1] ?? 0n) ? 0 : 1;
  await file.write(older * SUPERBLOCK_SLOT_BYTES + 200, Uint8Array.of(0xff, 0x00, 0xff));
  await file.sync();
  await file.close();
}

const troubles = (lab: CopyLab) =>
  lab.lab.events.flatMap((event) => (event.type === "engine.trouble" ? [event.message] : []));

for (const path of ["sessions/c1/super", "volumes/v1/super"])
  test(`after a clean stop a damaged slot of ${path} is told, with its file, and nothing is lost`, async (t) => {
    const lab = await tracked(t);
    await lab.engine.stop();
    await damageOlderSlot(lab, path);
    lab.lab.events.length = 0;
    await lab.lab.boot();
    const [told, ...others] = troubles(lab);
    t.regex(told ?? "", new RegExp(`slot [01] of ${path} is damaged.*look after the disk`));
    t.deepEqual(others, []);
    const { plannedGranules, reason } = await lab.restart("c1");
    t.is(plannedGranules, 1);
    t.is(reason, "DIFFERENCE");
    await lab.lab.finish();
    await lab.holds(t, "v2");
    lab.lab.events.length = 0;
    await lab.lab.reboot();
    t.deepEqual(troubles(lab), [], "it has been written since");
    await lab.engine.stop();
  });

test("after a kill a damaged slot may be a torn write: nothing is told", async (t) => {
  const lab = await tracked(t);
  await lab.lab.settle();
  const path = "sessions/c1/super";
  await lab.lab.kill(1);
  await lab.lab.settle();
  await damageOlderSlot(lab, path);
  await lab.lab.kill(1);
  t.deepEqual(troubles(lab), []);
  t.is((await lab.session("c1")).phase, "tracking");
  await lab.engine.stop();
});

for (const path of ["sessions/c1", "volumes/v1"])
  test(`data-safety 1.8: a damaged slot of ${path}/super is written anew, durably, before anything else there is changed`, async (t) => {
    const lab = await tracked(t);
    await lab.lab.halt(1);
    await damageOlderSlot(lab, `${path}/super`);
    // A torn tail is there to be cut off.
    const { stateFiles } = lab.lab;
    const log = (await stateFiles.list(path)).find((name) => name.endsWith(".log")) ?? "";
    stateFiles.damage(`${path}/${log}`, Buffer.concat([stateFiles.contents(`${path}/${log}`), Buffer.alloc(20, 7)]));
    const changes: string[] = [];
    lab.lab.stateFiles.intercept = ({ type, path: at }) => {
      const isChange =
        ["write", "truncate", "remove", "rename"].includes(type) || (type === "sync" && changes.length > 0);
      if (at.startsWith(`${path}/`) && isChange) changes.push(`${type} ${at.slice(path.length + 1)}`);
    };
    await lab.lab.boot();
    t.deepEqual(changes.slice(0, 2), ["write super", "sync super"], changes.join(", "));
    t.true(changes.length > 2, "there was more to change");
    lab.lab.stateFiles.intercept = undefined;
    const { reason } = await lab.restart("c1");
    t.true(reason === "DIFFERENCE" || reason === "MAP_WIDENED", reason);
  });
