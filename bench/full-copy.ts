/**
 * Copying a whole volume, beside the fastest programs that copy files.
 *
 * One run of a contestant gives two figures: when all is copied, and when the copy is also durable. Ours says COMPLETED
 * when the destination is durable; a peer is followed by fdatasync of its destination.
 * Preparation, the same for all: the destination is a file of the same size that holds an earlier copy and is written back;
 * warm: the source is in the page cache (and the destination, as the run before left it); cold: nothing is.
 */
import { Box } from "./box.ts";
import { cloneRange } from "./clone-range.ts";
import { datasync, denseFile, dropCaches, sparseFile, warm } from "./files.ts";
import { type BenchContext, type Contestants, inTurn, limitRow, OURS, rowOf } from "./series.ts";
import { MiB } from "./sizes.ts";
import { hasTool, run } from "./workspace.ts";

const BENCH = "full-copy";
const BAR = 1;
const MEMORY_BAR_MIB = 512;

interface Times {
  readonly copiedMs: number;
  readonly durableMs: number;
}

const PEERS: Readonly<Record<string, (source: string, destination: string) => Promise<unknown>>> = {
  "qemu-img": (source, destination) =>
    run("qemu-img", ["convert", "-U", "-n", "-f", "raw", "-O", "raw", source, destination]),
  nbdcopy: (source, destination) => run("nbdcopy", [source, destination]),
  cp: (source, destination) => run("cp", ["--sparse=auto", source, destination]),
};

export async function fullCopy(context: BenchContext): Promise<void> {
  const { options, work } = context;
  for (const [content, make] of [
    ["dense", denseFile],
    ["90 % empty", sparseFile],
  ] as const) {
    const states = (["warm", "cold"] as const).filter((state) =>
      ["copied", "durable", ""].some((end) => `${content} ${state} ${end}`.includes(options.case)),
    );
    if (states.length === 0 && !"daemon memory".includes(options.case)) continue;
    const source = work.path(`${content.slice(0, 2)}-source.img`);
    await make(source, options.sizeBytes);
    for (const state of states.length === 0 ? (["warm"] as const) : states) {
      await contest(context, `${content} ${state}`, source, state === "cold");
    }
    await run("rm", ["-f", source]);
  }
  await cloneRange(context);
}

async function contest(context: BenchContext, name: string, source: string, cold: boolean): Promise<void> {
  const { options, work, report } = context;
  const ours = work.path("ours.img");
  const peer = work.path("peer.img");
  for (const path of [ours, peer]) await run("truncate", ["-s", String(options.sizeBytes), path]);
  const boxDirectory = `box-${name.replaceAll(/[^a-z0-9]/g, "")}`;
  const box = await Box.start(work, boxDirectory);
  const [sourceName, destinationName] = [await box.register(source), await box.register(ours)];
  const prepare = async (destination: string) => {
    await datasync(destination);
    await (cold ? dropCaches() : warm(source));
  };
  const contestants: Record<string, () => Promise<Times>> = {
    [OURS]: async () => {
      await prepare(ours);
      const times = await box.fullCopy(sourceName, destinationName);
      return { copiedMs: times.copiedMs, durableMs: times.completeMs };
    },
    ...peersOf(context, source, peer, prepare),
  };
  const results = await inTurn<Times>(contestants, options.runs);
  await run("cmp", [source, ours]);
  for (const [end, key] of [
    ["durable", "durableMs"],
    ["copied", "copiedMs"],
  ] as const) {
    const form = { bench: BENCH, case: `${name} ${end}`, unit: "s", bar: BAR, higherIsBetter: false };
    if (!form.case.includes(options.case)) continue;
    report(
      rowOf(
        form,
        seriesOf(results, (times) => times[key] / 1000),
      ),
    );
  }
  if (name === "dense warm" && "daemon memory".includes(options.case)) {
    const form = { bench: BENCH, case: "daemon memory", unit: "MiB", bar: MEMORY_BAR_MIB };
    report(limitRow(form, [box.peakMemoryBytes() / MiB]));
  }
  await box.stop();
  await run("rm", ["-rf", ours, peer, work.path(boxDirectory)]);
}

function peersOf(
  context: BenchContext,
  source: string,
  destination: string,
  prepare: (destination: string) => Promise<void>,
): Contestants<Times> {
  const peers: Record<string, () => Promise<Times>> = {};
  for (const [name, copy] of Object.entries(PEERS)) {
    if (!hasTool(name)) {
      context.note(`${name} is not installed and left out`);
      continue;
    }
    peers[name] = async () => {
      await prepare(destination);
      const begin = performance.now();
      await copy(source, destination);
      const copiedMs = performance.now() - begin;
      await datasync(destination);
      return { copiedMs, durableMs: performance.now() - begin };
    };
  }
  return peers;
}

export function seriesOf<T>(
  results: Readonly<Record<string, readonly T[]>>,
  figure: (result: T) => number,
): Record<string, number[]> {
  return Object.fromEntries(Object.entries(results).map(([name, values]) => [name, values.map(figure)]));
}
