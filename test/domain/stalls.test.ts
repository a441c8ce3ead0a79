/** What the box remembers of volumes whose devices did not answer in time, and paths that do not answer. */
import { truncate } from "node:fs/promises";
import test from "ava";
import { systemClock } from "../../src/base/clock.ts";
import { DEVICE_STEP_TIMEOUT_MS } from "../../src/base/limits.ts";
import { limitedPaths, type Paths, systemPaths } from "../../src/domain/paths.ts";
import { identityOf } from "../../src/engine/device/identity.ts";
import { openDevice } from "../../src/engine/device/open-device.ts";
import type { EngineOptions } from "../../src/engine/engine.ts";
import { LabClock } from "../support/engine-lab.ts";
import { BoxFixture, eventually, refusal } from "./box-fixture.ts";

const MiB = 1 << 20;

/** An engine whose devices do not answer when they are to be resized, until `end` is called. */
function stalledResize(clock: LabClock): { readonly options: EngineOptions; readonly end: () => void; begun: boolean } {
  let end: () => void = () => undefined;
  const stalled = new Promise<void>((resolve) => {
    end = resolve;
  });
  const state = {
    begun: false,
    end: () => end(),
    options: {
      clock,
      ports: async () => ({
        openDevice: async (path: string) => {
          const device = await openDevice(path, { clock: systemClock });
          const resize = device.resize.bind(device);
          device.resize = async (sizeBytes) => {
            state.begun = true;
            await stalled;
            await resize(sizeBytes);
          };
          return { device, identity: await identityOf(path) };
        },
      }),
    } satisfies EngineOptions,
  };
  return state;
}

test("a shrinking resize that times out is not forgotten: reopened, the volume has the size that its file got after all", async (t) => {
  const fixture = await BoxFixture.make(t);
  const clock = new LabClock();
  const stall = stalledResize(clock);
  const box = await fixture.start({}, stall.options);
  await fixture.create("a", 4 * MiB);
  await fixture.create("b", 4 * MiB);
  const resizing = refusal(
    t,
    () => box.volumes.resize({ name: "g1d1", sizeBytes: MiB, shrink: "allow" }, () => []),
    "DEVICE_TIMEOUT",
  );
  await eventually(() => stall.begun);
  clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await resizing;
  t.false((await box.volumes.get("g1d1")).status.online);
  t.true((await box.volumes.get("g1d2")).status.online);
  stall.end();
  const size = async () => (await systemPaths.look(fixture.path("a.img")))?.sizeBytes;
  await eventually(async () => (await size()) === MiB);
  const reopened = await eventually(() => box.reopenVolume("g1d1", () => []).catch(() => undefined));
  t.true(reopened.status.online);
  t.like(reopened.row, { sizeBytes: MiB, resizingToBytes: 0 });
  t.is((await box.volumes.get("g1d1")).row.sizeBytes, MiB);
  t.is(box.events("g1d1", { pageSize: 0, pageToken: "" }).items.at(-1)?.type, "volume.reopened");
});

test("a shrinking resize that times out and is killed is finished by the next start", async (t) => {
  const fixture = await BoxFixture.make(t);
  const clock = new LabClock();
  const stall = stalledResize(clock);
  const box = await fixture.start({}, stall.options);
  await fixture.create("a", 4 * MiB);
  const resizing = refusal(
    t,
    () => box.volumes.resize({ name: "g1d1", sizeBytes: MiB, shrink: "allow" }, () => []),
    "DEVICE_TIMEOUT",
  );
  await eventually(() => stall.begun);
  clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await resizing;
  stall.end();
  await fixture.stop();
  await truncate(fixture.path("a.img"), 4 * MiB); // as if it had never been cut
  const again = await fixture.start();
  t.like((await again.volumes.get("g1d1")).row, { sizeBytes: MiB, resizingToBytes: 0 });
  t.is((await systemPaths.look(fixture.path("a.img")))?.sizeBytes, MiB);
});

test("a path that does not answer holds up its own request only, and in time", async (t) => {
  const clock = new LabClock();
  const hanging: Paths = {
    ...systemPaths,
    resolve: (path) => (path.startsWith("/hung") ? new Promise(() => undefined) : Promise.resolve(path)),
  };
  const paths = limitedPaths(hanging, clock);
  const asked = refusal(t, () => paths.resolve("/hung/disk.img"), "DEVICE_TIMEOUT");
  t.is(await paths.resolve("/other/disk.img"), "/other/disk.img");
  clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await asked;
  await refusal(t, () => paths.resolve("/hung/disk.img"), "DEVICE_TIMEOUT"); // at once
});
