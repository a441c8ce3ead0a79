/**
 * What changes while a start still puts the rows right (data-safety 1.9): found by the simulator, in four of 200,000 histories.
 */
import test from "ava";
import { systemRandom } from "../../src/base/clock.ts";
import { Catalog } from "../../src/domain/catalog.ts";
import type { Context } from "../../src/domain/context.ts";
import { Copies } from "../../src/domain/copies.ts";
import { Journal } from "../../src/domain/journal.ts";
import { KeyedMutex } from "../../src/domain/keyed-mutex.ts";
import { systemPaths } from "../../src/domain/paths.ts";
import type { EngineApi, SessionStatus } from "../../src/engine/engine-api.ts";
import { openMemoryStore } from "../../src/store/memory/memory.ts";
import { LabClock } from "../support/engine-lab.ts";

const extent = (name: string) => ({ volumeUid: `uid-${name}`, name, offsetBytes: 0, lengthBytes: 65_536 });

function session(id: string, phase: SessionStatus["phase"]): SessionStatus {
  const granules = { plannedGranules: 8, pendingGranules: 0, changedGranules: 0, totalGranules: 8 };
  const bytes = { bytesPlanned: 65_536, bytesCopied: 65_536, bytesZeroed: 0, bytesCloned: 0, barrierMicroseconds: 9 };
  const times = { createdMs: 1, pointMs: 1, endedMs: phase === "completed" ? 2 : undefined, etaSeconds: 0 };
  return {
    ...{ id, source: extent("g1d1"), destination: extent("g1d2"), kind: "quickopc", phase, tracking: true, pace: 15 },
    ...{ reason: "FIRST_COPY", generation: 1, ...granules, ...bytes, ...times },
    ...{ sourceEpoch: 1, destinationEpoch: 1, failure: undefined },
  };
}

test("data-safety 1.9: a copy that has copied while a start records ends is recorded as it is, not as it was found", async (t) => {
  const store = await openMemoryStore();
  const clock = new LabClock();
  const journal = new Journal(store, clock, (what, error) => t.fail(`${what}: ${error}`));
  await journal.load();
  const forgotten: string[] = [];
  const engine: Pick<EngineApi, "forgetSession"> = {
    forgetSession: async (id) => {
      forgotten.push(id);
    },
  };
  const context: Context = {
    ...{ engine: engine as EngineApi, journal, clock, random: systemRandom, paths: systemPaths },
    ...{
      catalog: new Catalog(engine as EngineApi, 1),
      locks: new KeyedMutex(),
      rules: { dataDirectory: "/data", roots: [] },
    },
    report: (what, error) => t.fail(`${what}: ${error}`),
  };
  const copies = new Copies(context);
  await copies.load(store);
  const ended = [{ session: session("c2", "completed"), destinationUsable: true }];
  const adopted = copies.adopt({ sessions: [session("c1", "copying")], ended, outOfService: [] });
  copies.onEngineEvent({ type: "session.changed", session: session("c1", "tracking") });
  await adopted;
  await journal.commit([], []); // everything handed over before it is stored by now
  t.is((await store.get("copies", 1))?.phase, "tracking");
  t.is((await store.get("ended-copies", 2))?.phase, "completed");
  t.deepEqual(forgotten, ["c2"]);
  t.deepEqual(
    journal.events.map(({ type, subject }) => `${type} ${subject}`),
    ["copy.adopted c1", "copy.completed c2", "copy.copied c1"],
  );
});
