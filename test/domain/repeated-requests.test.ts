/**
 * A client that did not hear the answer repeats its request with the same id: whenever the daemon was killed, the request has
 * acted exactly once, and the repetition gets an answer that is true.
 */
import { truncate, writeFile } from "node:fs/promises";
import test, { type ExecutionContext } from "ava";
import { CopyKind, CopyPhase } from "../../src/gen/tidemark/v1/copy.ts";
import { copyService } from "../../src/server/services/copy-service.ts";
import { exportService } from "../../src/server/services/export-service.ts";
import { volumeService } from "../../src/server/services/volume-service.ts";
import { ask, KillableBox } from "../support/killable-box.ts";

const SIZE = 1 << 18;
const STEPS_MAX = 400;
const page = { pageSize: 0, pageToken: "" };

interface Case {
  prepare?(t: ExecutionContext, killable: KillableBox): Promise<void>;
  /** The request; always the same one. */
  request(killable: KillableBox): Promise<unknown>;
  /** After the repetition: what it answered, and what there is. */
  check(t: ExecutionContext, killable: KillableBox, answer: unknown): Promise<void>;
}

function services({ box }: KillableBox) {
  const parts = { box, requests: box.requests, log: () => undefined };
  return { copies: copyService(parts), volumes: volumeService(parts), exports: exportService(parts) };
}

const sessions = ({ box }: KillableBox) => box.copies.list({ volume: "", ended: "include" }, page);

async function tracked(_: ExecutionContext, killable: KillableBox): Promise<void> {
  const pairs = [{ source: "g1d1", destination: "g1d2" }];
  await killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  await killable.finish();
}

const start = (killable: KillableBox, kind: CopyKind, pairs = [{ source: "g1d1", destination: "g1d2" }]) =>
  ask(services(killable).copies.startCopy, { pairs, kind, pace: 15, requestId: "r1" });

/** One session, of this generation: its point was fired once. */
async function firedOnce(t: ExecutionContext, killable: KillableBox, answer: unknown, generation: bigint) {
  const { copies } = answer as Awaited<ReturnType<typeof start>>;
  t.is(copies.length, 1);
  const { items } = await sessions(killable);
  t.deepEqual(
    items.map(({ id, generation }) => [id, BigInt(generation)]),
    [[copies[0]?.id ?? "", generation]],
  );
  t.is(copies[0]?.generation, generation);
}

const CASES: Record<string, Case> = {
  "StartCopy of a new pair": {
    request: (killable) => start(killable, CopyKind.QUICKOPC),
    check: (t, killable, answer) => firedOnce(t, killable, answer, 1n),
  },
  "StartCopy of a plain copy, which may have ended meanwhile": {
    request: async (killable) => {
      const answer = await start(killable, CopyKind.OPC);
      killable.clock.advance(500);
      await killable.settle();
      return answer;
    },
    check: (t, killable, answer) => firedOnce(t, killable, answer, 1n),
  },
  "StartCopy of a pair that has a session": {
    prepare: tracked,
    request: (killable) => start(killable, CopyKind.QUICKOPC),
    check: (t, killable, answer) => firedOnce(t, killable, answer, 2n),
  },
  "StartCopy of two pairs, one of them anew": {
    prepare: tracked,
    request: (killable) =>
      start(killable, CopyKind.QUICKOPC, [
        { source: "g1d1", destination: "g1d2" },
        { source: "g1d1", destination: "g1d3" },
      ]),
    async check(t, killable, answer) {
      const { copies } = answer as Awaited<ReturnType<typeof start>>;
      const told = copies.map(({ destination, generation }) => [destination, generation]);
      t.deepEqual(told, [
        ["g1d2", 2n],
        ["g1d3", 1n],
      ]);
      t.is((await sessions(killable)).items.length, 2);
    },
  },
  RestartCopy: {
    prepare: tracked,
    request: (killable) => ask(services(killable).copies.restartCopy, { ids: ["c1"], requestId: "r1" }),
    check: (t, killable, answer) => firedOnce(t, killable, answer, 2n),
  },
  CancelCopy: {
    prepare: tracked,
    request: (killable) => ask(services(killable).copies.cancelCopy, { id: "c1", requestId: "r1" }),
    async check(t, killable, answer) {
      t.like(answer, { copy: { id: "c1", phase: CopyPhase.CANCELLED }, destinationUsable: true });
      const { items } = await sessions(killable);
      t.deepEqual(
        items.map(({ id, phase }) => [id, phase]),
        [["c1", "cancelled"]],
      );
      t.is(killable.events("c1").filter((type) => type === "copy.cancelled").length, 1, "its end is recorded once");
    },
  },
  StopTracking: {
    prepare: tracked,
    request: (killable) => ask(services(killable).copies.stopTracking, { id: "c1", requestId: "r1" }),
    async check(t, killable, answer) {
      t.like(answer, { copy: { id: "c1", phase: CopyPhase.COMPLETED } });
      t.is((await sessions(killable)).items[0]?.phase, "completed");
    },
  },
  CreateVolume: {
    request: (killable) =>
      ask(services(killable).volumes.createVolume, {
        ...{ path: killable.path("new.img"), sizeBytes: BigInt(SIZE), lu: 0, label: "new", requestId: "r1" },
      }),
    check: oneVolumeMore,
  },
  RegisterVolume: {
    async prepare(_, killable) {
      await writeFile(killable.path("new.img"), "");
      await truncate(killable.path("new.img"), SIZE);
    },
    request: (killable) =>
      ask(services(killable).volumes.registerVolume, {
        ...{ path: killable.path("new.img"), lu: 0, label: "new", requestId: "r1" },
      }),
    check: oneVolumeMore,
  },
  "DeleteVolume with its file": {
    request: (killable) =>
      ask(services(killable).volumes.deleteVolume, { name: "g1d3", deleteFile: true, requestId: "r1" }),
    async check(t, killable) {
      const { items } = await killable.box.volumes.list(page);
      t.deepEqual(
        items.map(({ name }) => name),
        ["g1d1", "g1d2"],
      );
    },
  },
  AddExport: {
    request: (killable) => ask(services(killable).exports.addExport, { name: "g1d1", readOnly: true, requestId: "r1" }),
    async check(t, killable, answer) {
      t.like(answer, { export: { name: "g1d1", readOnly: true } });
      t.is((await killable.box.exports.list(page)).items.length, 1);
    },
  },
};

async function oneVolumeMore(t: ExecutionContext, killable: KillableBox, answer: unknown): Promise<void> {
  t.like(answer, { volume: { name: "g1d4", label: "new" } });
  const { items } = await killable.box.volumes.list(page);
  t.deepEqual(
    items.map(({ name, status }) => [name, status.online]),
    ["g1d1", "g1d2", "g1d3", "g1d4"].map((name) => [name, true]),
  );
}

/** Kills at this step of the request, then repeats it; false when the request has fewer steps. */
async function killedAt(t: ExecutionContext, one: Case, step: number): Promise<boolean> {
  const killable = await KillableBox.make(t, 3, SIZE);
  await one.prepare?.(t, killable);
  await killable.settle();
  let steps = 0;
  killable.intercept(() => (++steps < step ? undefined : new Promise<never>(() => undefined)));
  let answered = false;
  const first = one.request(killable).then(
    () => {
      answered = true;
    },
    () => undefined,
  );
  await Promise.race([first, killable.settle()]);
  await killable.settle();
  await killable.kill(step % 5);
  const answer = await one.request(killable);
  await killable.settle();
  await t.notThrowsAsync(async () => one.check(t, killable, answer), `step ${step}, answered ${answered}`);
  const again = await one.request(killable);
  t.deepEqual(JSON.stringify(again, bigints), JSON.stringify(answer, bigints), "the same answer from then on");
  for await (const row of killable.store.scan("intents")) t.fail(`step ${step} left an intent: ${row.action}`);
  await killable.die();
  return steps >= step;
}

const bigints = (_: string, value: unknown) => (typeof value === "bigint" ? String(value) : value);

for (const [title, one] of Object.entries(CASES))
  test(`killed at every step of ${title}: the repetition finds it done once`, async (t) => {
    let step = 1;
    while (await killedAt(t, one, step)) if (++step > STEPS_MAX) throw new Error("it does not end");
    t.log(`${step} steps`);
    t.true(step >= 1);
  });
