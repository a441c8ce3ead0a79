/**
 * A store that takes nothing for a while (a full disk under the data directory): what cannot be recorded is refused before it
 * is done; what the engine has done is done, and recorded as soon as that can be; nothing is left half done.
 */
import test, { type ExecutionContext } from "ava";
import { CopyKind } from "../../src/gen/tidemark/v1/copy.ts";
import { copyService } from "../../src/server/services/copy-service.ts";
import { ask, KillableBox } from "../support/killable-box.ts";
import { refusal } from "./box-fixture.ts";

const page = { pageSize: 0, pageToken: "" };
const pairs = [{ source: "g1d1", destination: "g1d2" }];
const SIZE = 1 << 18;

async function rows<T>(rows: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const row of rows) found.push(row);
  return found;
}

/** The store is full from the n-th commit of `run` on. */
async function fullFrom(killable: KillableBox, commit: number, run: () => Promise<unknown>): Promise<unknown> {
  let commits = 0;
  killable.intercept((step) => {
    if (step === "commit" && ++commits >= commit) killable.isStoreFull = true;
    return undefined;
  });
  const outcome = await run().then(
    () => "done",
    (error: unknown) => error,
  );
  killable.intercept(() => undefined);
  return outcome;
}

/** There is room again, and some time passes. */
async function makeRoom(killable: KillableBox): Promise<void> {
  killable.isStoreFull = false;
  killable.clock.advance(5001);
  await killable.settle();
}

async function tracked(t: ExecutionContext): Promise<KillableBox> {
  const killable = await KillableBox.make(t, 3, SIZE);
  await killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  await killable.finish();
  return killable;
}

test("a start whose number cannot be recorded is refused, and nothing was fired", async (t) => {
  const killable = await KillableBox.make(t, 2, SIZE);
  killable.isStoreFull = true;
  await refusal(
    t,
    () => killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []),
    "METADATA_WRITE_FAILED",
  );
  t.deepEqual(await killable.engine.sessions(), []);
  await makeRoom(killable);
  const [session] = await killable.box.copies.start({ pairs, kind: "quickopc", pace: 0 }, () => []);
  t.is(session?.id, "c1", "its number is free again");
});

test("a fired point is a success although its record has to wait; the record follows, also the answer to its request id", async (t) => {
  const killable = await KillableBox.make(t, 2, SIZE);
  const request = { pairs, kind: CopyKind.QUICKOPC, pace: 15, requestId: "r1" };
  const { box } = killable;
  const start = () =>
    ask(copyService({ box, requests: box.requests, log: () => undefined }).startCopy, request).then(
      ({ copies }) => copies[0]?.generation,
    );
  t.is(await fullFrom(killable, 2, async () => t.is(await start(), 1n)), "done");
  t.deepEqual(killable.events("c1"), [], "nobody sees an event that is not durable");
  t.is(await start(), 1n, "the repetition gets its answer from memory");
  await killable.finish();
  await makeRoom(killable);
  t.deepEqual(killable.events("c1"), ["copy.started", "copy.copied"]);
  t.is((await killable.store.get("copies", 1))?.phase, "tracking");
  t.is(await start(), 1n);
  t.deepEqual(await rows(killable.store.scan("intents")), []);
});

test("a refused point withdraws its intent; while that cannot be stored nothing else is fired", async (t) => {
  const killable = await KillableBox.make(t, 2, SIZE);
  const { box } = killable;
  const service = copyService({ box, requests: box.requests, log: () => undefined });
  const onto = {
    ...{ pairs: [{ source: "g1d1", destination: "g1d1" }] },
    kind: CopyKind.OPC,
    pace: 0,
    requestId: "r1",
  };
  await t.throwsAsync(async () => ask(service.startCopy, onto));
  t.deepEqual(await rows(killable.store.scan("intents")), [], "a refusal leaves nothing");
  const outcome = await fullFrom(killable, 2, () => ask(service.startCopy, onto));
  t.regex(String(outcome), /share bytes/, "the refusal is told");
  await refusal(t, () => killable.box.copies.start({ pairs, kind: "opc", pace: 0 }, () => []), "METADATA_WRITE_FAILED");
  t.deepEqual(await killable.engine.sessions(), []);
  await makeRoom(killable);
  t.deepEqual(await rows(killable.store.scan("intents")), []);
});

test("ends are recorded when there is room again, and the engine forgets them only then", async (t) => {
  const killable = await tracked(t);
  killable.isStoreFull = true;
  await refusal(t, () => killable.box.copies.setPace("c1", 77, () => []), "INVALID_ARGUMENT");
  const ended = await killable.box.copies.cancel("c1", () => []);
  t.true(ended.destinationUsable, "the engine has it durably");
  await killable.settle();
  t.deepEqual(await killable.stateFiles.list("sessions/c1"), ["super"]);
  t.is((await killable.box.copies.get("c1")).phase, "cancelled");
  await makeRoom(killable);
  t.deepEqual(await killable.stateFiles.list("sessions"), []);
  t.is((await killable.store.get("ended-copies", 1))?.phase, "cancelled");
  t.is(killable.events("c1").at(-1), "copy.cancelled");
});

test("killed while an end waits to be recorded: the next start records it, once", async (t) => {
  const killable = await tracked(t);
  killable.isStoreFull = true;
  await killable.box.copies.cancel("c1", () => []);
  await killable.die();
  killable.isStoreFull = false;
  await killable.start();
  for (const start of ["first", "second"]) {
    const { items } = await killable.box.copies.list({ volume: "", ended: "include" }, page);
    t.deepEqual(
      items.map(({ id, phase }) => [id, phase]),
      [["c1", "cancelled"]],
      start,
    );
    t.is(killable.events("c1").filter((type) => type === "copy.cancelled").length, 1, start);
    await killable.settle();
    t.deepEqual(await killable.stateFiles.list("sessions"), [], start);
    await killable.kill();
  }
});

for (const file of ["keep", "remove"] as const)
  test(`a deletion that cannot be recorded is refused and the volume goes on (${file} the file)`, async (t) => {
    const killable = await KillableBox.make(t, 2, SIZE);
    killable.isStoreFull = true;
    await refusal(t, () => killable.box.volumes.delete({ name: "g1d1", file }, () => []), "METADATA_WRITE_FAILED");
    const { items } = await killable.box.volumes.list(page);
    t.deepEqual(
      items.map(({ name, status }) => [name, status.online]),
      [
        ["g1d1", true],
        ["g1d2", true],
      ],
    );
    await makeRoom(killable);
    await killable.box.volumes.delete({ name: "g1d1", file }, () => []);
    await killable.kill();
    t.is((await killable.box.volumes.list(page)).items.length, 1);
  });

test("a deletion whose last record has to wait is done; the next start finds the same", async (t) => {
  const killable = await KillableBox.make(t, 2, SIZE);
  const remove = () => killable.box.volumes.delete({ name: "g1d1", file: "remove" }, () => []);
  t.is(await fullFrom(killable, 2, remove), "done");
  t.is((await killable.box.volumes.list(page)).items.length, 1);
  await killable.die();
  killable.isStoreFull = false;
  await killable.start();
  t.is((await killable.box.volumes.list(page)).items.length, 1);
});

test("an export whose removal cannot be recorded stays and is offered", async (t) => {
  const killable = await KillableBox.make(t, 1, SIZE);
  await killable.box.exports.add({ name: "g1d1", readOnly: false }, () => []);
  killable.isStoreFull = true;
  const remove = () => killable.box.exports.remove({ name: "g1d1", clients: "refuse" }, () => []);
  await refusal(t, remove, "METADATA_WRITE_FAILED");
  t.deepEqual(await killable.engine.exportStatus(), [{ name: "g1d1", connections: 0 }]);
  await makeRoom(killable);
  await remove();
  t.deepEqual(await killable.engine.exportStatus(), []);
});

test("a volume whose creation could not be recorded leaves neither file nor number", async (t) => {
  const killable = await KillableBox.make(t, 0);
  const create = () =>
    killable.box.volumes.create({ path: killable.path("new.img"), sizeBytes: SIZE, lu: 0, label: "new" }, () => []);
  t.regex(String(await fullFrom(killable, 2, create)), /could not store/);
  await makeRoom(killable);
  t.deepEqual(await rows(killable.store.scan("volumes")), []);
  t.is((await create()).name, "g1d1");
  await killable.kill();
  t.deepEqual(
    (await killable.box.volumes.list(page)).items.map(({ name, status }) => [name, status.online]),
    [["g1d1", true]],
  );
});
