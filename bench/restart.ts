/**
 * How long a box with many copies takes to serve again: from the start of the program until all sessions are listed and
 * an export can be read. After a clean stop, and after `kill -9` with a hot region on every volume.
 */
import { copyFile } from "node:fs/promises";
import { CopyKind, CopyPhase } from "../src/gen/tidemark/v1/copy.ts";
import { NbdClient } from "../src/quickstart/nbd-client.ts";
import { Box, call } from "./box.ts";
import { type BenchContext, limitRow } from "./series.ts";
import { GRANULE_BYTES, KiB, MiB, sleep } from "./sizes.ts";
import { hasTool, run } from "./workspace.ts";

const BENCH = "restart";
const BAR_SECONDS = 2;
const VOLUMES = 100;
const SESSIONS = 1000;
/** Half of the volumes are sources, half destinations, partition by partition. */
const PARTITIONS = SESSIONS / (VOLUMES / 2);
const PARTITION_BYTES = 4 * MiB;
const IMAGE_BYTES = (PARTITIONS + 1) * PARTITION_BYTES;
const SESSIONS_A_POINT = 250;
const BOX = "box-restart";
const PATIENCE_MS = 120_000;

const ENDINGS = {
  "clean stop": (box: Box) => box.stop(),
  "kill -9": (box: Box) => box.kill(),
} as const;

export async function restart(context: BenchContext): Promise<void> {
  const { options, work, report } = context;
  const cases = Object.entries(ENDINGS).map(([name, end]) => ({ name: nameOf(name), end }));
  const wanted = cases.filter(({ name }) => name.includes(options.case));
  if (wanted.length === 0) return;
  if (!hasTool("sfdisk")) throw new Error("sfdisk is not installed");
  let box = await Box.start(work, BOX);
  const names = await volumes(context, box);
  await sessions(box, names);
  for (const { name, end } of wanted) {
    const seconds: number[] = [];
    for (let round = 0; round <= options.runs; round++) {
      await writeToAll(box, names);
      await end(box);
      const begin = performance.now();
      box = await Box.start(work, BOX);
      await serves(box, names);
      if (round > 0) seconds.push((performance.now() - begin) / 1000);
    }
    report(limitRow({ bench: BENCH, case: name, unit: "s", bar: BAR_SECONDS }, seconds));
  }
  await box.stop();
}

function nameOf(ending: string): string {
  return `${SESSIONS} sessions, ${VOLUMES} volumes after ${ending}`;
}

/** Registered and exported. */
async function volumes({ work }: BenchContext, box: Box): Promise<string[]> {
  const model = work.path("model.img");
  await run("truncate", ["-s", String(IMAGE_BYTES), model]);
  const size = PARTITION_BYTES / 512;
  const table = Array.from({ length: PARTITIONS }, (_, at) => `start=${(at + 1) * size - size / 2},size=${size}`);
  await run("sh", ["-c", `printf '%s\\n' "$@" | sfdisk -q "$0"`, model, "label: gpt", ...table]);
  const names: string[] = [];
  for (let at = 0; at < VOLUMES; at++) {
    const path = work.path(`volume-${at}.img`);
    await copyFile(model, path);
    const name = await box.register(path);
    await box.export(name);
    names.push(name);
  }
  return names;
}

/** Each partition of a source tracked to the same one of its destination. */
async function sessions(box: Box, names: readonly string[]): Promise<void> {
  const half = names.length / 2;
  const pairs = names.slice(0, half).flatMap((source, at) =>
    Array.from({ length: PARTITIONS }, (_, partition) => ({
      source: `${source}p${partition + 1}`,
      destination: `${names[half + at]}p${partition + 1}`,
    })),
  );
  for (let at = 0; at < pairs.length; at += SESSIONS_A_POINT)
    await box.start(pairs.slice(at, at + SESSIONS_A_POINT), CopyKind.QUICKOPC);
  const begin = performance.now();
  for (;;) {
    const copies = await listed(box);
    if (copies.every(({ phase }) => phase === CopyPhase.TRACKING)) return;
    if (performance.now() - begin > PATIENCE_MS) throw new Error("the copies do not finish");
    await sleep(100);
  }
}

/** One write to a partition of each volume: its region is hot. */
async function writeToAll(box: Box, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const client = await NbdClient.connect(box.nbdSocket, name, new AbortController().signal);
    await client.write(PARTITION_BYTES + 3 * GRANULE_BYTES, Buffer.alloc(4 * KiB, 1));
    client.close();
  }
}

/** All sessions are listed, and the last export can be read. */
async function serves(box: Box, names: readonly string[]): Promise<void> {
  const copies = await listed(box);
  if (copies.length !== SESSIONS) throw new Error(`${copies.length} sessions are listed, not ${SESSIONS}`);
  const client = await NbdClient.connect(box.nbdSocket, names.at(-1)!, new AbortController().signal);
  await client.read(0, 4 * KiB);
  client.close();
}

async function listed(box: Box) {
  const request = { pageSize: 1000, pageToken: "", volume: "", includeEnded: false };
  return (await call(box.copies, box.copies.listCopies, request)).copies;
}
