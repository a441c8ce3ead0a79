/** A resize that a kill cut off is finished by the next start, whichever way it went: volume, row and file agree. */
import { rename } from "node:fs/promises";
import test from "ava";
import { MiB } from "../../src/base/units.ts";
import { KillableBox } from "../support/killable-box.ts";

for (const [what, fromBytes, toBytes] of [
  ["enlarges", MiB, 2 * MiB],
  ["shrinks", 2 * MiB, MiB],
] as const)
  test(`killed before and after each commit of a resize that ${what}: it has not happened, or it is finished`, async (t) => {
    const sizes: number[] = [];
    for (const commits of [0, 1, 2]) {
      const killable = await KillableBox.make(t, 1, fromBytes);
      let seen = 0;
      const never = new Promise<never>(() => undefined);
      killable.intercept((step) => (step === "commit" && ++seen > commits ? never : undefined));
      const resizing = killable.box.volumes.resize({ name: "g1d1", sizeBytes: toBytes, shrink: "allow" }, () => []);
      await Promise.race([resizing, killable.settle()]);
      await killable.settle();
      await killable.kill();
      const { row, status } = await killable.box.volumes.get("g1d1");
      t.is(row.resizingToBytes, 0);
      t.is(status.facts?.sizeBytes, row.sizeBytes);
      t.is(killable.deviceBytes(killable.path("v1.img")), row.sizeBytes, `after ${commits} commits`);
      sizes.push(row.sizeBytes);
    }
    t.deepEqual(sizes, [fromBytes, toBytes, toBytes]);
  });

test("an enlarging resize whose volume was away at the next start is finished", async (t) => {
  const killable = await KillableBox.make(t, 1, MiB);
  let seen = 0;
  killable.intercept((step) => (step === "commit" && ++seen > 1 ? new Promise<never>(() => undefined) : undefined));
  void killable.box.volumes
    .resize({ name: "g1d1", sizeBytes: 2 * MiB, shrink: "allow" }, () => [])
    .catch(() => undefined);
  await killable.settle();
  await killable.die();
  const path = killable.path("v1.img");
  await rename(path, `${path}.away`);
  await killable.start();
  await rename(`${path}.away`, path);
  await killable.box.volumes.reopen("g1d1", () => []);
  const opened = await killable.box.volumes.get("g1d1");
  t.is(opened.status.facts?.sizeBytes, opened.row.sizeBytes);
  await killable.kill();
  t.like((await killable.box.volumes.get("g1d1")).row, { sizeBytes: 2 * MiB, resizingToBytes: 0 });
});
