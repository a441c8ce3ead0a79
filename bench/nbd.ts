/** Host I/O over NBD, page-cached, beside other NBD servers; what tracking costs; what a stalled neighbour costs. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { CopyKind, CopyPhase } from "../src/gen/tidemark/v1/copy.ts";
import { Box } from "./box.ts";
import { datasync, denseFile } from "./files.ts";
import { type FioResult, fio, fioLoad, type Workload } from "./fio.ts";
import { type BenchContext, inTurn, OURS, rowOf } from "./series.ts";
import { GiB, MiB, sleep } from "./sizes.ts";
import { hasTool, run, stop } from "./workspace.ts";

const BENCH = "nbd";
const SECONDS = 0.7;
const WAIT_MS = 15_000;

interface Case {
  readonly name: string;
  readonly workload: Workload;
  readonly bar: number;
}

const CASES: readonly Case[] = [
  { name: "4 KiB random read QD32", workload: { rw: "randread", depth: 32 }, bar: 1.3 },
  { name: "4 KiB random write QD32", workload: { rw: "randwrite", depth: 32 }, bar: 1 },
  { name: "4 KiB random read QD1", workload: { rw: "randread", depth: 1 }, bar: 1 },
  { name: "4 KiB random write QD1", workload: { rw: "randwrite", depth: 1 }, bar: 1 },
  { name: "1 MiB sequential read QD8", workload: { rw: "read", depth: 8, block: "1m" }, bar: 0.8 },
  { name: "1 MiB sequential write QD8", workload: { rw: "write", depth: 8, block: "1m" }, bar: 0.8 },
];
const TRACKING_HOT = "tracking costs, 4 KiB random write QD32";
const TRACKING_COLD = "tracking costs, 4 KiB random write QD32, cold regions";
const COLD_BYTES = 64 * GiB;
const STALL = "p99 beside a stalled volume, 4 KiB";

export async function nbd(context: BenchContext): Promise<void> {
  if (!hasTool("fio")) throw new Error("fio is not installed");
  const wanted = CASES.filter(({ name }) => name.includes(context.options.case));
  if (wanted.length > 0) await servers(context, wanted);
  for (const one of trackingCases(context.options.sizeBytes))
    if (one.name.includes(context.options.case)) await tracking(context, one);
  if (STALL.includes(context.options.case)) await stalled(context);
}

async function servers({ options, work, report, note }: BenchContext, cases: readonly Case[]): Promise<void> {
  const sizeBytes = Math.min(options.sizeBytes, GiB);
  const image = async (name: string) => {
    await denseFile(work.path(name), sizeBytes);
    return work.path(name);
  };
  const box = await Box.start(work, "box-servers");
  const oursPath = await image("ours.img");
  const exports: Record<string, { uri: string; path: string }> = {
    [OURS]: { uri: await box.export(await box.register(oursPath)), path: oursPath },
  };
  const peers: Readonly<Record<string, (socket: string, path: string) => [string, ...string[]]>> = {
    "qemu-nbd": (socket, path) => ["qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", socket, path],
    "qemu-nbd io_uring": (socket, path) => [
      "qemu-nbd",
      "--aio=io_uring",
      "-t",
      "-e",
      "8",
      "-f",
      "raw",
      "-k",
      socket,
      path,
    ], // prettier
    "nbdkit file": (socket, path) => ["nbdkit", "-f", "-U", socket, "file", path],
  };
  for (const [name, command] of Object.entries(peers)) {
    const slug = name.replaceAll(/\W/g, "-");
    const socket = work.path(`${slug}.sock`);
    const [program, ...args] = command(socket, work.path(`${slug}.img`));
    if (!hasTool(program)) {
      note(`${program} is not installed and left out`);
      continue;
    }
    const path = await image(`${slug}.img`);
    const child = work.spawn(program, args);
    const serving = await appears(socket, () => child.exitCode === null);
    if (serving) exports[name] = { uri: `nbd+unix:///?socket=${socket}`, path };
    else note(`${name} does not start here and is left out`);
  }
  for (const { name, workload, bar } of cases) {
    const contestants = Object.fromEntries(
      Object.entries(exports).map(([who, { uri, path }]) => [who, () => measured(path, uri, workload)]),
    );
    const results = await inTurn(contestants, options.runs);
    report(rateRow(name, workload, bar, results));
  }
  await box.stop();

  async function measured(path: string, uri: string, workload: Workload): Promise<FioResult> {
    await datasync(path);
    return fio(work, uri, workload, SECONDS);
  }
}

function rateRow(name: string, workload: Workload, bar: number | null, results: Readonly<Record<string, FioResult[]>>) {
  const large = workload.block !== undefined;
  const figure = (result: FioResult) => (large ? result.bytesPerSecond / 1e9 : result.iops / 1000);
  const series = Object.fromEntries(Object.entries(results).map(([who, of]) => [who, of.map(figure)]));
  const unit = large ? "GB/s" : "thousand/s";
  return rowOf({ bench: BENCH, case: name, unit, bar, higherIsBetter: true }, series);
}

interface TrackingCase {
  readonly name: string;
  readonly bar: number | null;
  readonly make: (path: string) => Promise<unknown>;
}

/**
 * Hot: every region stays in the activity log. Cold: 16 times as many regions as the log has slots, so that nearly every
 * write first makes its region hot, durably, and another one cold.
 */
function trackingCases(sizeBytes: number): readonly TrackingCase[] {
  return [
    { name: TRACKING_HOT, bar: 0.95, make: (path) => denseFile(path, Math.min(sizeBytes, GiB)) },
    { name: TRACKING_COLD, bar: null, make: (path) => run("truncate", ["-s", String(COLD_BYTES), path]) },
  ];
}

/** Two volumes of one box, one the source of a QuickOPC session that tracks. */
async function tracking({ options, work, report }: BenchContext, { name, bar, make }: TrackingCase): Promise<void> {
  const box = await Box.start(work, `box-tracking-${bar}`);
  const paths = ["tracked", "untracked", "copy"].map((role) => work.path(`${role}-${bar}.img`)) as [
    string,
    string,
    string,
  ];
  for (const path of paths) await make(path);
  const [tracked, untracked, copy] = [
    await box.register(paths[0]),
    await box.register(paths[1]),
    await box.register(paths[2]),
  ];
  const pair = { source: tracked, destination: copy };
  const { copy: session } = await box.timed(async () => (await box.start([pair], CopyKind.QUICKOPC))[0]!);
  if (session.phase !== CopyPhase.TRACKING) throw new Error("the session does not track");
  const workload: Workload = { rw: "randwrite", depth: 32 };
  const writing = (uri: string, path: string) => async () => {
    await datasync(path);
    return fio(work, uri, workload, 2 * SECONDS);
  };
  const results = await inTurn(
    { [OURS]: writing(await box.export(tracked), paths[0]), untracked: writing(await box.export(untracked), paths[1]) },
    options.runs,
  );
  report(rateRow(name, workload, bar, results));
  await box.stop();
}

/** p99 of one volume, without and with a second one whose device takes 3 s for each request. */
async function stalled({ options, work, report, note }: BenchContext): Promise<void> {
  if (!hasTool("nbdkit") || !hasTool("nbdfuse")) return note("nbdkit or nbdfuse is not installed: no stalled volume");
  const box = await Box.start(work, "box-stall");
  const quick = work.path("quick.img");
  await denseFile(quick, Math.min(options.sizeBytes, GiB));
  const quickUri = await box.export(await box.register(quick));
  const slowUri = await box.export(await box.register(await slowDevice()));
  for (const rw of ["randread", "randwrite"] as const) {
    const measure = async () => {
      await datasync(quick);
      return (await fio(work, quickUri, { rw, depth: 1 }, SECONDS)).p99Ms;
    };
    const beside = async () => {
      const load = fioLoad(work, [slowUri], { rw: "randrw", depth: 8 });
      await sleep(500);
      const p99Ms = await measure();
      if (load.exitCode !== null) throw new Error("the load on the stalled volume ended early");
      load.kill("SIGKILL");
      return p99Ms;
    };
    const series = await inTurn({ [OURS]: beside, "without it": measure }, options.runs);
    const name = `${STALL} ${rw === "randread" ? "read" : "write"} QD1`;
    report(rowOf({ bench: BENCH, case: name, unit: "ms", bar: 0.5, higherIsBetter: false }, series));
  }

  async function slowDevice(): Promise<string> {
    const image = work.path("slow.img");
    await run("truncate", ["-s", String(64 * MiB), image]);
    const socket = work.path("slow.sock");
    work.spawn("nbdkit", ["-f", "-U", socket, "--filter=delay", "file", image, "delay-read=3", "delay-write=3"]);
    if (!(await appears(socket, () => true))) throw new Error("nbdkit did not start");
    const mount = work.path("slow");
    await mkdir(mount);
    const fuse = work.spawn("nbdfuse", [`${mount}/nbd`, "--unix", socket]);
    work.defer(async () => {
      await box.stop();
      await run("umount", ["-l", mount]).catch(() => {}); // nbdfuse may have taken it away
      await stop(fuse);
    });
    if (!(await appears(`${mount}/nbd`, () => fuse.exitCode === null))) throw new Error("nbdfuse did not start");
    return `${mount}/nbd`;
  }
}

async function appears(path: string, alive: () => boolean): Promise<boolean> {
  for (const end = performance.now() + WAIT_MS; performance.now() < end && alive(); await sleep(20)) {
    if (existsSync(path)) return true;
  }
  return false;
}
