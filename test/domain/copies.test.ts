import test from "ava";
import type { ErrorCode } from "../../src/base/errors.ts";
import { ENDED_COPIES_MAX } from "../../src/base/limits.ts";
import type { CopyKind } from "../../src/domain/copies.ts";
import type { EndedCopyRow } from "../../src/store/rows.ts";
import type { Change } from "../../src/store/store.ts";
import { BoxFixture, eventually, refusal } from "./box-fixture.ts";

const page = { pageSize: 0, pageToken: "" };

async function boxWith(fixture: BoxFixture, volumes: number): Promise<void> {
  await fixture.start();
  for (let n = 1; n <= volumes; n++) await fixture.create(`v${n}`, 1 << 20, `label${n}`);
}

const start = (fixture: BoxFixture, source: string, destination: string, kind: CopyKind = "quickopc") =>
  fixture.box.copies.start({ pairs: [{ source, destination }], kind, pace: 0 }, () => []);

const phaseOf = async (fixture: BoxFixture, id: string) => (await fixture.box.copies.get(id)).phase;

const untilPhase = (fixture: BoxFixture, id: string, phase: string) =>
  eventually(async () => ((await phaseOf(fixture, id)) === phase ? true : undefined));

test.serial("spec/11: an OPC session ends as completed and is remembered, also after a restart", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 2);
  const [session] = await start(fixture, "label1", "g1d2", "opc");
  t.is(session?.id, "c1");
  await untilPhase(fixture, "c1", "completed");
  t.is((await fixture.box.copies.list({ volume: "", ended: "leave-out" }, page)).items.length, 0);
  const check = async () => {
    const { items } = await fixture.box.copies.list({ volume: "", ended: "include" }, page);
    t.deepEqual(
      items.map(({ id, phase }) => [id, phase]),
      [["c1", "completed"]],
    );
    const ended = await fixture.box.copies.get("c1");
    t.is(ended.source.name, "g1d1");
    t.true((ended.endedMs ?? 0) >= ended.pointMs);
  };
  await check();
  await eventually(() => (fixture.box.events("c1", page).items.length === 2 ? true : undefined));
  await fixture.restart();
  await check();
  const events = fixture.box.events("c1", page).items.map(({ type }) => type);
  t.deepEqual(events, ["copy.started", "copy.completed"]);
  const error = await refusal(t, () => fixture.box.copies.cancel("c1", () => []), "SESSION_NOT_FOUND");
  t.true(error?.message.includes("completed"));
});

test.serial(
  "numbers of sessions are never reused, also when the last session is gone and the box was restarted",
  async (t) => {
    const fixture = await BoxFixture.make(t);
    await boxWith(fixture, 4);
    t.is((await start(fixture, "g1d1", "g1d2"))[0]?.id, "c1");
    await refusal(t, () => start(fixture, "g1d1", "g1d1"), "SOURCE_IS_DESTINATION");
    t.is((await start(fixture, "g1d1", "g1d3"))[0]?.id, "c2", "a refused point uses no number");
    t.is((await start(fixture, "g1d1", "g1d3"))[0]?.id, "c2", "the same pair runs the same session again");
    await fixture.box.copies.cancel("c2", () => []);
    await fixture.restart();
    // 3 may have been given out when the same pair ran again: it is left out rather than risked.
    t.true(["c3", "c4"].includes((await start(fixture, "g1d1", "g1d4"))[0]?.id ?? ""));
  },
);

test.serial(
  "spec/11: several pairs start at one point and are listed by number; filters take names and labels",
  async (t) => {
    const fixture = await BoxFixture.make(t);
    await boxWith(fixture, 5);
    const pairs = ["g1d2", "label3", "g1d4"].map((destination) => ({ source: "label1", destination }));
    const sessions = await fixture.box.copies.start({ pairs, kind: "quickopc", pace: 3 }, () => []);
    t.deepEqual(
      sessions.map(({ id, destination }) => [id, destination.name]),
      [
        ["c1", "g1d2"],
        ["c2", "g1d3"],
        ["c3", "g1d4"],
      ],
    );
    t.is(new Set(sessions.map(({ pointMs }) => pointMs)).size, 1);
    const ids = async (volume: string) =>
      (await fixture.box.copies.list({ volume, ended: "leave-out" }, page)).items.map(({ id }) => id);
    t.deepEqual(await ids(""), ["c1", "c2", "c3"]);
    t.deepEqual(await ids("label1"), ["c1", "c2", "c3"]);
    t.deepEqual(await ids("g1d3"), ["c2"]);
    t.deepEqual(await ids("g1d5"), []);
    await refusal(t, () => ids("nobody"), "VOLUME_NOT_FOUND");
    const first = await fixture.box.copies.list({ volume: "", ended: "leave-out" }, { pageSize: 2, pageToken: "" });
    t.deepEqual(
      first.items.map(({ id }) => id),
      ["c1", "c2"],
    );
    const second = await fixture.box.copies.list(
      { volume: "", ended: "leave-out" },
      { pageSize: 2, pageToken: first.nextPageToken },
    );
    t.deepEqual(
      second.items.map(({ id }) => id),
      ["c3"],
    );
    const again = await fixture.box.copies.restart(["c1", "c3"], () => []);
    t.deepEqual(
      again.map(({ generation }) => generation),
      [2, 2],
    );
  },
);

test.serial("a point comes before what follows from it, also when there is nothing to copy", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 2);
  await start(fixture, "g1d1", "g1d2");
  await untilPhase(fixture, "c1", "tracking");
  for (let run = 2; run <= 4; run++) {
    const [again] = await fixture.box.copies.restart(["c1"], () => []);
    t.is(again?.plannedGranules, 0);
    await eventually(() => (fixture.box.events("c1", page).items.length === 2 * run ? true : undefined));
  }
  const types = fixture.box.events("c1", page).items.map(({ type }) => type);
  const again = ["copy.restarted", "copy.copied"];
  t.deepEqual(types, ["copy.started", "copy.copied", ...again, ...again, ...again]);
});

test.serial("bad requests are refused by name before anything happens", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 2);
  const { copies } = fixture.box;
  const pair = { source: "g1d1", destination: "g1d2" };
  const cases: [string, () => Promise<unknown>, ErrorCode][] = [
    ["no pairs", () => copies.start({ pairs: [], kind: "opc", pace: 0 }, () => []), "INVALID_ARGUMENT"],
    [
      "too many pairs",
      () => copies.start({ pairs: Array(257).fill(pair), kind: "opc", pace: 0 }, () => []),
      "LIMIT_EXCEEDED",
    ],
    ["pace 16", () => copies.start({ pairs: [pair], kind: "opc", pace: 16 }, () => []), "INVALID_ARGUMENT"],
    ["unknown source", () => start(fixture, "g1d9", "g1d2"), "VOLUME_NOT_FOUND"],
    ["unknown destination", () => start(fixture, "g1d1", "x"), "VOLUME_NOT_FOUND"],
    ["no ids", () => copies.restart([], () => []), "INVALID_ARGUMENT"],
    ["no id", () => copies.restart(["x"], () => []), "INVALID_ARGUMENT"],
    ["unknown id", () => copies.restart(["c9"], () => []), "SESSION_NOT_FOUND"],
    ["twice", () => copies.restart(["c9", "c9"], () => []), "INVALID_ARGUMENT"],
    ["pace 0", () => copies.setPace("c1", 0, () => []), "INVALID_ARGUMENT"],
    ["get", () => copies.get("c1"), "SESSION_NOT_FOUND"],
    ["stop tracking", () => copies.stopTracking("c1", () => []), "SESSION_NOT_FOUND"],
  ];
  for (const [what, run, code] of cases) {
    t.log(what);
    await refusal(t, run, code);
  }
  t.deepEqual(fixture.box.copies.totals(), { copying: 0, tracking: 0, failed: 0 });
});

test.serial("spec/11: stopping the tracking of a finished QuickOPC ends it with a usable destination", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 2);
  await start(fixture, "g1d1", "g1d2");
  await untilPhase(fixture, "c1", "tracking");
  t.deepEqual(fixture.box.copies.totals(), { copying: 0, tracking: 1, failed: 0 });
  const ended = await fixture.box.copies.stopTracking("c1", () => []);
  t.is(ended.phase, "completed");
  t.is(await phaseOf(fixture, "c1"), "completed");
  t.deepEqual(fixture.box.copies.totals(), { copying: 0, tracking: 0, failed: 0 });
  const events = fixture.box.events("c1", page).items.map(({ type }) => type);
  t.deepEqual(events, ["copy.started", "copy.copied", "copy.completed"]);
});

test.serial("cancelling is recorded once, with its event", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 2);
  await start(fixture, "g1d1", "g1d2");
  const both = await Promise.allSettled([
    fixture.box.copies.cancel("c1", () => []),
    fixture.box.copies.cancel("c1", () => []),
  ]);
  t.deepEqual(
    both.map(({ status }) => status),
    ["fulfilled", "rejected"],
  );
  t.is(await phaseOf(fixture, "c1"), "cancelled");
  const types = fixture.box.events("c1", page).items.map(({ type }) => type);
  t.is(types.filter((type) => type === "copy.cancelled").length, 1);
  const row = await fixture.store.get("ended-copies", 1);
  t.is(row?.phase, "cancelled");
});

test.serial("at most ENDED_COPIES_MAX ended copies are remembered, the newest", async (t) => {
  const fixture = await BoxFixture.make(t);
  const extent = { volumeUid: "u", name: "g1d1", offsetBytes: 0, lengthBytes: 1 };
  const numbers = {
    pace: 15, createdMs: 1, pointMs: 1, endedMs: 2, generation: 1, plannedGranules: 1, pendingGranules: 0,
    changedGranules: 0, totalGranules: 1, bytesPlanned: 1, bytesCopied: 1, bytesZeroed: 0, bytesCloned: 0,
    barrierMicroseconds: 1,
  }; // biome-ignore format: a table
  const words = { kind: "opc", phase: "completed", reason: "FIRST_COPY", failureCause: "", failureMessage: "" };
  const row = (number: number): EndedCopyRow => ({
    number, source: extent, destination: extent, destinationUsable: true, ...words, ...numbers,
  }); // biome-ignore format: one line
  await fixture.leave(
    Array.from({ length: ENDED_COPIES_MAX }, (_, i): Change => ({ table: "ended-copies", put: row(i + 1) })),
  );
  await fixture.leave([{ table: "counters", put: { name: "copy", value: ENDED_COPIES_MAX } }]);
  await boxWith(fixture, 2);
  const [session] = await start(fixture, "g1d1", "g1d2");
  t.is(session?.id, `c${ENDED_COPIES_MAX + 1}`);
  await fixture.box.copies.cancel(`c${ENDED_COPIES_MAX + 1}`, () => []);
  await refusal(t, () => fixture.box.copies.get("c1"), "SESSION_NOT_FOUND");
  t.is(await phaseOf(fixture, "c2"), "completed");
  t.is(await fixture.store.get("ended-copies", 1), undefined);
});

test.serial("a watch follows a copy to its end; watches of events tell what happens", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 2);
  const stop = new AbortController();
  const events = fixture.box.watches.events(0, "c1", stop.signal);
  const told = events.next();
  await start(fixture, "g1d1", "g1d2", "opc");
  t.is((await told).value?.[0]?.type, "copy.started");
  const phases: string[] = [];
  for await (const session of fixture.box.watches.copy("c1", { until: "copied", signal: stop.signal }))
    phases.push(session.phase);
  t.is(phases.at(-1), "completed");
  stop.abort();
  for await (const _ of events) t.log("events that came before the abort");
  t.is(fixture.box.watches.count, 0);
});

test.serial("watches are bounded and end when the box stops", async (t) => {
  const fixture = await BoxFixture.make(t);
  await boxWith(fixture, 1);
  const { watches } = fixture.box;
  const signal = new AbortController().signal;
  const open = Array.from({ length: 256 }, () => watches.events(0, "", signal));
  const waiting = open.map((watch) => watch.next());
  await refusal(t, () => watches.events(0, "", signal).next(), "LIMIT_EXCEEDED");
  await fixture.stop();
  await Promise.all(waiting);
  t.is(watches.count, 0);
});
