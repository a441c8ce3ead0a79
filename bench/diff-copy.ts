/** A differential copy after 1 % of the granules changed at random, beside rsync over the same change. */

import { CopyKind } from "../src/gen/tidemark/v1/copy.ts";
import { NbdClient } from "../src/quickstart/nbd-client.ts";
import { Box } from "./box.ts";
import { datasync, denseFile, distinctNumbers, noiseSource } from "./files.ts";
import { type BenchContext, limitRow, OURS, rowOf } from "./series.ts";
import { GRANULE_BYTES, sleep } from "./sizes.ts";
import { hasTool, run } from "./workspace.ts";

const BENCH = "diff-copy";
const BYTES_BAR = 1.05;
const TIME_BAR = 50;
const OUTSTANDING = 32;
/** rsync reads and sums both files: a run takes many times as long as everything else here. */
const RSYNC_RUNS = 3;

export async function diffCopy({ options, work, report, note }: BenchContext): Promise<void> {
  const [source, ours, peer] = ["source.img", "ours.img", "peer.img"].map((name) => work.path(name)) as [
    string,
    string,
    string,
  ];
  await denseFile(source, options.sizeBytes);
  await run("truncate", ["-s", String(options.sizeBytes), ours]);
  const box = await Box.start(work);
  const pair = { source: await box.register(source), destination: await box.register(ours) };
  await box.export(pair.source);
  const client = await NbdClient.connect(box.nbdSocket, pair.source, new AbortController().signal);
  const withRsync = hasTool("rsync") && "time".includes(options.case);
  if (!hasTool("rsync")) note("rsync is not installed and left out");
  const first = await box.timed(async () => (await box.start([pair], CopyKind.QUICKOPC))[0]!);
  if (withRsync) await run("cp", ["--sparse=auto", source, peer]);

  const moved: number[] = [];
  const ourMs: number[] = [];
  const copiedMs: number[] = [];
  const rsyncMs: number[] = [];
  const granules = Math.floor(options.sizeBytes / GRANULE_BYTES);
  for (let round = 0; round <= options.runs; round++) {
    const changed = distinctNumbers(Math.floor(granules / 100), granules);
    await change(client, changed);
    await datasync(ours); // whatever the run before left to write
    const times = await box.timed(async () => (await box.restart([first.copy.id]))[0]!);
    if (round === 0) continue;
    moved.push(Number(times.copy.bytesCopied + times.copy.bytesZeroed) / (changed.length * GRANULE_BYTES));
    ourMs.push(times.completeMs);
    copiedMs.push(times.copiedMs);
    if (!withRsync || rsyncMs.length >= RSYNC_RUNS) continue;
    await sleep(1100); // rsync looks at whole seconds of the time of the last write
    await run("touch", [source]);
    const begin = performance.now();
    await run("rsync", ["--inplace", "--no-whole-file", source, peer]);
    rsyncMs.push(performance.now() - begin);
  }
  client.close();
  await run("cmp", [source, ours]);
  if (withRsync && options.runs <= RSYNC_RUNS) await run("cmp", [source, peer]);
  const bytes = { bench: BENCH, case: "bytes moved / changed granules", unit: "x", bar: BYTES_BAR };
  if (bytes.case.includes(options.case)) report(limitRow(bytes, moved));
  if (!withRsync) return;
  note(`rsync ran ${rsyncMs.length} times, without fdatasync`);
  const form = { bench: BENCH, unit: "ms", bar: TIME_BAR, higherIsBetter: false };
  report(rowOf({ ...form, case: "time to durable" }, { [OURS]: ourMs, rsync: rsyncMs }));
  report(rowOf({ ...form, case: "time to copied" }, { [OURS]: copiedMs, rsync: rsyncMs }));
}

async function change(client: NbdClient, granules: readonly number[]): Promise<void> {
  const noise = noiseSource();
  let next = 0;
  const writer = async () => {
    for (let at = next++; at < granules.length; at = next++) {
      await client.write(granules[at]! * GRANULE_BYTES, noise(GRANULE_BYTES));
    }
  };
  await Promise.all(Array.from({ length: OUTSTANDING }, writer));
  await client.flush();
}
