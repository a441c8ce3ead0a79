/**
 * Two gRPC clients at once on the same pairs: whatever the order, each call is carried out or refused by name, nothing
 * hangs, and at the end the copies are right.
 */
import test from "ava";
import type { Clients } from "../server/fixture.ts";
import {
  all,
  CopyKind,
  CopyPhase,
  call,
  codeOf,
  Daemon,
  sameBytes,
  startCopy,
  writeBlocks,
} from "../support/daemon.ts";

const MiB = 1 << 20;
const ROUNDS = 60;
const VOLUMES = ["one", "two", "three"] as const;
/** What may be refused because the other client was faster, or because the state does not allow it. */
const LEGAL = new Set([
  "SESSION_NOT_FOUND",
  "COPY_STATE",
  "NOT_TRACKING",
  "DESTINATION_COPYING",
  "DESTINATION_IN_USE",
  "REVERSE_NOT_OPC",
  "COPY_CYCLE",
]);

/** Repeatable choices. */
function chooser(seed: number): (count: number) => number {
  let state = seed;
  return (count) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 16) % count;
  };
}

async function lastId(clients: Clients, choose: (count: number) => number): Promise<string> {
  const { copies } = await call(clients.copies, "listCopies", {
    ...{ pageSize: 0, pageToken: "", volume: "", includeEnded: false },
  });
  return copies[choose(Math.max(1, copies.length))]?.id ?? "c1";
}

async function act(clients: Clients, choose: (count: number) => number): Promise<void> {
  const [from, to] = [choose(3), choose(2)];
  const source = VOLUMES[from] ?? "one";
  const destination = VOLUMES[(from + 1 + to) % 3] ?? "two";
  switch (choose(8)) {
    case 0:
    case 1:
    case 2:
      await startCopy(clients, source, destination, choose(3) === 0 ? CopyKind.OPC : CopyKind.QUICKOPC, 15);
      return;
    case 3:
      await startCopy(clients, source, destination, CopyKind.QUICKOPC, 2);
      return;
    case 4:
      await call(clients.copies, "restartCopy", { ids: [await lastId(clients, choose)], requestId: "" });
      return;
    case 5:
      await call(clients.copies, "cancelCopy", { id: await lastId(clients, choose), requestId: "" });
      return;
    case 6:
      await call(clients.copies, "stopTracking", { id: await lastId(clients, choose), requestId: "" });
      return;
    default:
      await writeBlocks(clients, source, choose(1024) * 16384 + 700, Buffer.alloc(9000, choose(255) + 1));
  }
}

test("two clients race StartCopy, RestartCopy, CancelCopy, StopTracking and writes on the same volumes", async (t) => {
  const daemon = await Daemon.start(t);
  for (const label of VOLUMES) await daemon.volume(label, 17 * MiB);
  const outcomes = new Map<string, number>();
  const count = (outcome: string) => outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  await Promise.all(
    [1, 2].map(async (seed) => {
      const clients = daemon.connect(t);
      const choose = chooser(seed);
      for (let round = 0; round < ROUNDS; round++) {
        try {
          await act(clients, choose);
          count("done");
        } catch (error) {
          const code = codeOf(error);
          if (!LEGAL.has(code)) throw error;
          count(code);
        }
      }
    }),
  );
  t.log(JSON.stringify(Object.fromEntries(outcomes)));
  t.true((outcomes.get("done") ?? 0) > 20, "most is carried out");
  t.true(outcomes.size > 2, "some is refused");
  await everythingIsRight(t, daemon);
});

async function everythingIsRight(t: Parameters<typeof sameBytes>[0], daemon: Daemon): Promise<void> {
  for (const { id } of await daemon.copies()) {
    await call(daemon.clients.copies, "setCopyPace", { id, pace: 15, requestId: "" }).catch((error: unknown) => {
      if (codeOf(error) !== "SESSION_NOT_FOUND") throw error;
    });
    await daemon.copied(id).catch((error: unknown) => t.is(codeOf(error), "SESSION_NOT_FOUND"));
  }
  for (const copy of await daemon.copies()) {
    t.is(copy.phase, CopyPhase.TRACKING, `${copy.id}: ${copy.failureMessage}`);
    await daemon.restart(copy.id);
    await daemon.copied(copy.id);
    sameBytes(t, await daemon.read(copy.destination), await daemon.read(copy.source), copy.id);
    await call(daemon.clients.copies, "cancelCopy", { id: copy.id, requestId: "" });
  }
  const { events } = await call(daemon.clients.box, "listEvents", { pageSize: 1000, pageToken: "", subject: "" });
  const bad = events.filter(({ type }) => ["copy.failed", "volume.failed", "engine.trouble"].includes(type));
  t.deepEqual(bad, []);
  await daemon.restartDaemon();
  t.deepEqual(await daemon.copies(), []);
}

test("two clients start the same pair at the same moment: one session, the points one after the other", async (t) => {
  const daemon = await Daemon.start(t);
  await daemon.volume("one", 8 * MiB);
  await daemon.volume("two", 8 * MiB);
  const clients = [daemon.connect(t), daemon.connect(t)];
  for (let round = 1; round <= 5; round++) {
    const copies = await Promise.all(clients.map((client) => startCopy(client, "one", "two", CopyKind.QUICKOPC)));
    t.is(new Set(copies.map(({ id }) => id)).size, 1);
    t.deepEqual(
      copies.map(({ generation }) => Number(generation)).sort((a, b) => a - b),
      [2 * round - 1, 2 * round],
    );
  }
  t.is((await daemon.copied("c1")).phase, CopyPhase.TRACKING);
  sameBytes(t, await daemon.read("two"), await daemon.read("one"), "copied");
});

test("two clients cancel the same copy: one does it, the other is told; both streams that follow it end", async (t) => {
  const daemon = await Daemon.start(t);
  await daemon.volume("one", 16 * MiB);
  await daemon.volume("two", 16 * MiB);
  const clients = [daemon.connect(t), daemon.connect(t)];
  const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC, 1);
  const watches = clients.map((client) => all(client.copies.watchCopy({ id, keepFollowing: true })));
  const results = await Promise.allSettled(
    clients.map((client) => call(client.copies, "cancelCopy", { id, requestId: "" })),
  );
  t.is(results.filter(({ status }) => status === "fulfilled").length, 1);
  for (const result of results) if (result.status === "rejected") t.is(codeOf(result.reason), "SESSION_NOT_FOUND");
  for (const watch of watches) t.is((await watch).at(-1)?.copy?.phase, CopyPhase.CANCELLED);
});
