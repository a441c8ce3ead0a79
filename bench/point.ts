/** Firing a point: its cost must not depend on the size of the volume, and little on the number of pairs. */
import { type Copy, CopyKind } from "../src/gen/tidemark/v1/copy.ts";
import { Box } from "./box.ts";
import { fioLoad } from "./fio.ts";
import { type BenchContext, inTurn, limitRow, OURS, rowOf } from "./series.ts";
import { GiB, MiB, sleep, TiB } from "./sizes.ts";
import { hasTool, stop } from "./workspace.ts";

const BENCH = "point";
/** 16 TiB within 1.2 times of 1 GiB. */
const SIZE_BAR = 1 / 1.2;
const PAIRS = 64;
const BARRIER_BAR_MS = 50;
const RUNS_MIN = 7;
const QUICKOPC = CopyKind.QUICKOPC;
/** The largest file of ext4 is a block short of 16 TiB. */
const LARGE_BYTES = 16 * TiB - MiB;
const LOADED_SOURCES = 4;

interface Pair {
  readonly source: string;
  readonly destination: string;
}

export async function point(context: BenchContext): Promise<void> {
  await sizes(context);
  await pairs(context);
}

async function sizes({ options, work, report, note }: BenchContext): Promise<void> {
  const names = ["StartCopy 16 TiB against 1 GiB", "barrier 16 TiB against 1 GiB"] as const;
  if (!names.some((name) => name.includes(options.case))) return;
  note(`the volume of 16 TiB is ${LARGE_BYTES} bytes: ext4 allows no file of exactly that size`);
  const box = await Box.start(work, "box-sizes");
  const pairOf = async (name: string, sizeBytes: number): Promise<Pair> => ({
    source: await box.create(work.path(`${name}-source.img`), sizeBytes),
    destination: await box.create(work.path(`${name}-destination.img`), sizeBytes),
  });
  const large = await pairOf("large", LARGE_BYTES);
  const small = await pairOf("small", GiB);
  const fire = (pair: Pair) => async () => {
    const begin = performance.now();
    const copies = await box.start([pair], QUICKOPC);
    const ms = performance.now() - begin;
    await box.cancel(copies.map(({ id }) => id));
    await sleep(50);
    return { ms, barrierMs: barrierMs(copies) };
  };
  const results = await inTurn({ [OURS]: fire(large), "1 GiB": fire(small) }, Math.max(RUNS_MIN, options.runs));
  for (const [name, key] of [
    [names[0], "ms"],
    [names[1], "barrierMs"],
  ] as const) {
    if (!name.includes(options.case)) continue;
    const series = Object.fromEntries(Object.entries(results).map(([who, of]) => [who, of.map((one) => one[key])]));
    report(rowOf({ bench: BENCH, case: name, unit: "ms", bar: SIZE_BAR, higherIsBetter: false }, series));
  }
  await box.stop();
}

async function pairs({ options, work, report, note }: BenchContext): Promise<void> {
  const wanted = (name: string) => name.includes(options.case);
  const cases = ["idle", "under write load"].flatMap((load) =>
    ["start", "restart"].map((what) => `${PAIRS} pairs ${what} ${load}`),
  );
  if (!cases.some(wanted)) return;
  const box = await Box.start(work, "box-pairs");
  const all: Pair[] = [];
  for (let at = 0; at < PAIRS; at++) {
    all.push({
      source: await box.create(work.path(`s${at}.img`), GiB),
      destination: await box.create(work.path(`d${at}.img`), GiB),
    });
  }
  const measure = async (load: string) => {
    const started: number[] = [];
    const restarted: number[] = [];
    for (let round = 0; round <= Math.max(RUNS_MIN, options.runs); round++) {
      const copies = await box.start(all, QUICKOPC);
      const ids = copies.map(({ id }) => id);
      await sleep(200);
      const again = await box.restart(ids);
      await box.cancel(ids);
      await sleep(200);
      if (round === 0) continue;
      started.push(barrierMs(copies));
      restarted.push(barrierMs(again));
    }
    for (const [what, values] of Object.entries({ start: started, restart: restarted })) {
      const name = `${PAIRS} pairs ${what} ${load}`;
      if (wanted(name)) report(limitRow({ bench: BENCH, case: name, unit: "ms barrier", bar: BARRIER_BAR_MS }, values));
    }
  };
  if (cases.some((name) => name.endsWith("idle") && wanted(name))) await measure("idle");
  if (!cases.some((name) => name.endsWith("load") && wanted(name))) return box.stop();
  if (!hasTool("fio")) return note("fio is not installed: no write load");
  const uris: string[] = [];
  for (const { source } of all.slice(0, LOADED_SOURCES)) uris.push(await box.export(source));
  const load = fioLoad(work, uris, { rw: "randwrite", depth: 8 });
  await sleep(1000);
  if (load.exitCode !== null) throw new Error("the write load did not start");
  await measure("under write load");
  if (load.exitCode !== null) throw new Error("the write load ended early");
  await stop(load);
  await box.stop();
}

/** How long the point held writes: the longest of all pairs. */
function barrierMs(copies: readonly Copy[]): number {
  return Math.max(...copies.map(({ barrierMicroseconds }) => Number(barrierMicroseconds))) / 1000;
}
