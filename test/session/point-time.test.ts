/** All members of a point are of one instant, also by the clock. */
import test from "ava";
import { MiB } from "../../src/base/units.ts";
import { CopyLab } from "../support/copy-lab.ts";
import { LabClock } from "../support/engine-lab.ts";

test("members of one point have the same time, and so have the epochs that begin there", async (t) => {
  const lab = await CopyLab.start(t, [1 * MiB, 1 * MiB, 1 * MiB, 1 * MiB]);
  const { clock, engine } = lab.lab;
  // A clock that goes on whenever somebody looks.
  clock.nowMs = () => {
    clock.advance(1);
    return LabClock.prototype.nowMs.call(clock);
  };
  const extent = (uid: string) => ({ volumeUid: uid, name: uid, offsetBytes: 0, lengthBytes: 1 * MiB });
  const sessions = await engine.startSessions([
    { id: "c1", source: extent("v1"), destination: extent("v2"), kind: "quickopc", pace: 15 },
    { id: "c2", source: extent("v3"), destination: extent("v4"), kind: "quickopc", pace: 15 },
  ]);
  const times = new Set(sessions.map(({ pointMs }) => pointMs));
  for (const uid of ["v1", "v2", "v3", "v4"])
    for (const { beginMs } of (await engine.volumeStatus(uid)).epochs) times.add(beginMs);
  t.is(times.size, 1);
});
