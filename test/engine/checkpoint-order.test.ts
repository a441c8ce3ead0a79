/**
 * data-safety 1.3: the maps of a checkpoint are read when the log that follows them has begun. A region may be evicted, with
 * bits set since the checkpoint was asked for, while it still waits behind others for the log.
 */
import test from "ava";
import { MiB } from "../../src/base/units.ts";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { loadCore } from "../../src/engine/map/core.ts";
import type { EnginePorts } from "../../src/engine/ports.ts";
import { ChangeChain } from "../../src/engine/volume/change-chain.ts";
import { Volume } from "../../src/engine/volume/volume.ts";
import { VolumeTracking } from "../../src/engine/volume/volume-tracking.ts";
import { G } from "../support/copy-lab.ts";

const GRANULES = (12 * MiB) / G; // three regions

test("data-safety 1.3: a region that is evicted before the log of a checkpoint has begun keeps its bits", async (t) => {
  const [core, files] = [await loadCore(), memoryStateFiles()];
  await files.makeDirectory("volumes");
  const activity = { slots: 2, checkpointBytes: 16 * MiB };
  const ports: Pick<EnginePorts, "files" | "core" | "activity"> = { files, core, activity };
  const volumeOf = () => {
    const chain = new ChangeChain(core, "v1", GRANULES, 1);
    return new Volume({ uid: "v1", name: "v1", path: "v1", chain, onFailure: (_, error) => t.fail(String(error)) });
  };
  const volume = volumeOf();
  const tracking = await VolumeTracking.create(ports as EnginePorts, volume);
  tracking.seal(1);
  const epoch = volume.chain.open.id;
  volume.chain.hold(epoch, "c1");
  await tracking.settle();
  await tracking.activity.activate(0, 0);
  let goOn = () => {};
  const held = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  files.intercept = ({ type, path }) => (type === "sync" && path.includes("al-") ? held : undefined);
  const working = [tracking.activity.activate(1, 1)];
  for (let turn = 0; turn < 20; turn++) await Promise.resolve(); // region 1 is being made durable
  working.push(tracking.activity.activate(2, 2), tracking.checkpoint("running"));
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  volume.chain.mark(3, 1); // region 0 is still hot
  files.intercept = undefined;
  goOn();
  await Promise.all(working);
  t.false(tracking.activity.isHot(0, 0));
  files.kill(5);
  const again = volumeOf();
  const found = await VolumeTracking.open(ports as EnginePorts, again, []);
  t.true(again.chain.between(epoch, 0).some(({ map }) => map.test(3)));
  await found?.abandon();
});
