/**
 * Benchmark `kernels`: the WebAssembly kernels beside the same kernels in C (bench/kernels.c, -O3, the 128-bit
 * instruction set that WebAssembly SIMD stands on), and beside what Node itself offers.
 *
 * Method: ours and the peer take turns, RUNS times each, on the same data in the first-level or second-level cache;
 * medians of processor time. Ours are called from JavaScript, one call a range or page, as the engine does. Rows against C have the bar
 * 0.8 (DESIGN section 11); rows against Node's own functions, and of whole PagedBitmap calls, only inform.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as zlib from "node:zlib";
import { BITMAP_PAGE_BITS } from "../src/engine/map/bitmap-pages.ts";
import { type Core, instantiateCore } from "../src/engine/map/core.ts";
import { PagedBitmap } from "../src/engine/map/paged-bitmap.ts";
import { type BenchRow, median, ratioOf, rounded } from "./bench-row.ts";

const RUNS = 7;
const SERIES_SECONDS = 0.04;
const BAR = 0.8;
const DATA_BYTES = 65_536;
const GRANULE_BYTES = 8192;
const PAGE_BYTES = 4096;
const C_FLAGS = ["-O3", "-march=x86-64-v2"];

/** A case runs so many calls; each has its own loop, so that the compiler sees one kernel in it. */
type Series = (calls: number) => void;

interface Case {
  readonly name: string;
  /** Name of the case in kernels.c, if it has one. */
  readonly inC?: string;
  /** Bytes one call goes through; without it the row is in nanoseconds a call. */
  readonly bytes?: number;
  readonly ours: Series;
  /** What Node offers for the same job. */
  readonly native?: Readonly<Record<string, Series>>;
  readonly bar?: number | null;
}

/** Processor time of this process in seconds: what other processes take from a small machine does not count. */
function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Nanoseconds of one call: calls are doubled until one series lasts long enough. */
function timeCalls(series: Series, seconds: number): number {
  for (let calls = 1; ; calls *= 2) {
    const begin = cpuSeconds();
    series(calls);
    const took = cpuSeconds() - begin;
    if (took >= seconds) return (took * 1e9) / calls;
  }
}

/** The C program, or undefined where there is no compiler for it. */
class CKernels {
  readonly #folder = mkdtempSync(join(tmpdir(), "tidemark-bench-"));
  readonly #program = join(this.#folder, "kernels");
  readonly available: boolean;

  constructor() {
    const source = fileURLToPath(new URL("./kernels.c", import.meta.url));
    this.available = spawnSync("gcc", [...C_FLAGS, "-o", this.#program, source]).status === 0;
  }

  time(name: string): { ns: number; checksum: number } {
    const output = execFileSync(this.#program, [name, String(SERIES_SECONDS)], { encoding: "utf8" });
    const [ns, checksum] = output.trim().split(" ").map(Number);
    return { ns: ns!, checksum: checksum! };
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true });
  }
}

/** Addresses and the content that kernels.c prepares as well. */
interface Data {
  readonly pageA: number;
  readonly pageB: number;
  readonly zeros: number;
  readonly noise: number;
  readonly twin: number;
}

function prepare(core: Core): Data {
  const buffer = core.createBuffer(16 * PAGE_BYTES + 3 * DATA_BYTES);
  const bytes = buffer.bytes.fill(0);
  for (let i = 0; i < PAGE_BYTES; i++) bytes[i] = Math.imul(i, 2654435761) >>> 21;
  const zerosAt = 16 * PAGE_BYTES;
  const noiseAt = zerosAt + DATA_BYTES;
  for (let i = 0; i < DATA_BYTES; i++) bytes[noiseAt + i] = Math.imul(i, 2654435761) >>> 13;
  bytes.copyWithin(noiseAt + DATA_BYTES, noiseAt, noiseAt + DATA_BYTES);
  const { address } = buffer;
  return {
    pageA: address,
    pageB: address + PAGE_BYTES,
    zeros: address + zerosAt,
    noise: address + noiseAt,
    twin: address + noiseAt + DATA_BYTES,
  };
}

function byteCases(core: Core, data: Data): Case[] {
  const k = core.kernels;
  const { zeros, noise, twin, pageB } = data;
  const outside = Buffer.from(core.view(noise, DATA_BYTES));
  const outsideTwin = Buffer.from(outside);
  const outsideZeros = Buffer.alloc(DATA_BYTES);
  const otherZeros = Buffer.alloc(DATA_BYTES);
  const copied = Buffer.alloc(DATA_BYTES);
  const native: Case[] = [
    {
      name: "equal 64 KiB, beside Node",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.bytesEqual(noise, twin, DATA_BYTES);
      },
      native: {
        "Buffer.equals": (n) => {
          for (let i = 0; i < n; i++) outside.equals(outsideTwin);
        },
      },
    },
    {
      name: "zero 64 KiB, beside Node",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.bytesZero(zeros, DATA_BYTES);
      },
      native: {
        "Buffer.equals to zeros": (n) => {
          for (let i = 0; i < n; i++) outsideZeros.equals(otherZeros);
        },
      },
    },
    {
      name: "copy 64 KiB, beside Node",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.bytesCopy(twin, noise, DATA_BYTES);
      },
      native: {
        "Uint8Array.set": (n) => {
          for (let i = 0; i < n; i++) copied.set(outside);
        },
      },
    },
    {
      name: "crc-32c of 64 KiB outside the core, beside Node",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) core.crc32c(outside);
      },
      native:
        "crc32" in zlib
          ? {
              "zlib.crc32 (the other polynomial)": (n) => {
                for (let i = 0; i < n; i++) zlib.crc32(outside);
              },
            }
          : {},
    },
  ];
  return [
    {
      name: "copy 64 KiB",
      inC: "copy",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.bytesCopy(twin, noise, DATA_BYTES);
      },
      bar: BAR,
    },
    {
      name: "zero 64 KiB",
      inC: "zero",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.bytesZero(zeros, DATA_BYTES);
      },
      bar: BAR,
    },
    {
      name: "equal 64 KiB",
      inC: "equal",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.bytesEqual(noise, twin, DATA_BYTES);
      },
      bar: BAR,
    },
    {
      name: "differing granules of 64 KiB",
      inC: "diff",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.diffBlocks(noise, twin, GRANULE_BYTES, DATA_BYTES / GRANULE_BYTES, pageB);
      },
      bar: BAR,
    },
    {
      name: "crc-32c 64 KiB",
      inC: "crc",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.crc32c(noise, DATA_BYTES, 0);
      },
      bar: BAR,
    },
    {
      name: "crc-32c 4 KiB",
      inC: "crc-page",
      bytes: PAGE_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.crc32c(noise, PAGE_BYTES, 0);
      },
      bar: BAR,
    },
    {
      name: "crc-32c 64 KiB, C by tables",
      inC: "crc-tables",
      bytes: DATA_BYTES,
      ours: (n) => {
        for (let i = 0; i < n; i++) k.crc32c(noise, DATA_BYTES, 0);
      },
    },
    ...native,
  ];
}

function pageCases(core: Core, { pageA, pageB }: Data): Case[] {
  const k = core.kernels;
  const whole = PAGE_BYTES * 8;
  const empty = core.allocatePage(0x00);
  return [
    {
      name: "page: count",
      inC: "count",
      ours: (n) => {
        for (let i = 0; i < n; i++) k.pageCount(pageA);
      },
      bar: BAR,
    },
    {
      name: "page: or",
      inC: "or",
      ours: (n) => {
        for (let i = 0; i < n; i++) k.pageOr(pageB, pageA);
      },
      bar: BAR,
    },
    {
      name: "page: or, shifted 13 bits",
      inC: "or-shifted",
      ours: (n) => {
        for (let i = 0; i < n; i++) k.pageOrShifted(pageB, 0, pageA, 13, whole - 13);
      },
      bar: BAR,
    },
    {
      name: "page: next set bit, none there",
      inC: "next-set",
      ours: (n) => {
        for (let i = 0; i < n; i++) k.pageNextSet(empty, 0, whole);
      },
      bar: BAR,
    },
    // So short that the call from JavaScript is most of it; it informs about the call.
    {
      name: "page: set 200 bits",
      inC: "set-range",
      ours: (n) => {
        for (let i = 0; i < n; i++) k.pageSetRange(pageB, (i * 61) & 0x7f00, 200);
      },
    },
  ];
}

function bitmapCases(core: Core): Case[] {
  const bitCount = 2 ** 31;
  const marked = new PagedBitmap(core, bitCount, "empty");
  const places = 256;
  for (let i = 0; i < places; i++) marked.setRange(i * 8_388_593, 3);
  const last = new PagedBitmap(core, bitCount, "empty");
  last.setRange(bitCount - 1, 1);
  const place = (i: number) => (i % places) * 8_388_593;
  return [
    {
      name: "bitmap 16 TiB: test",
      ours: (n) => {
        for (let i = 0; i < n; i++) marked.test(place(i));
      },
    },
    {
      name: "bitmap 16 TiB: set 1-2 bits",
      ours: (n) => {
        for (let i = 0; i < n; i++) marked.setRange(place(i) + (i & 511), 1 + (i & 1));
      },
    },
    {
      name: "bitmap 16 TiB: next run over empty",
      ours: (n) => {
        for (let i = 0; i < n; i++) last.nextRun(0, bitCount);
      },
    },
    {
      name: "bitmap 1 GiB: create",
      ours: (n) => {
        for (let i = 0; i < n; i++) new PagedBitmap(core, 4 * BITMAP_PAGE_BITS, "empty");
      },
    },
    {
      name: "bitmap 64 TiB: create",
      ours: (n) => {
        for (let i = 0; i < n; i++) new PagedBitmap(core, 2 ** 33, "empty");
      },
    },
  ];
}

function measure(entry: Case, inC: CKernels): BenchRow {
  const peers: Record<string, () => number> = {};
  for (const [name, call] of Object.entries(entry.native ?? {})) {
    timeCalls(call, SERIES_SECONDS);
    peers[name] = () => timeCalls(call, SERIES_SECONDS);
  }
  const { inC: caseInC } = entry;
  if (caseInC !== undefined && inC.available) peers["C -O3"] = () => inC.time(caseInC).ns;
  timeCalls(entry.ours, SERIES_SECONDS); // the optimising compiler has been here before we measure
  const mine: number[] = [];
  const theirs = Object.fromEntries(Object.keys(peers).map((name): [string, number[]] => [name, []]));
  for (let run = 0; run < RUNS; run++) {
    mine.push(timeCalls(entry.ours, SERIES_SECONDS));
    for (const [name, time] of Object.entries(peers)) theirs[name]!.push(time());
  }
  const { bytes } = entry;
  const inUnit = (ns: readonly number[]) => (bytes === undefined ? median(ns) : bytes / median(ns));
  const ours = inUnit(mine);
  const others = Object.fromEntries(Object.entries(theirs).map(([name, ns]) => [name, inUnit(ns)]));
  const higherIsBetter = bytes !== undefined;
  return {
    bench: "kernels",
    case: entry.name,
    unit: higherIsBetter ? "GB/s" : "ns/call",
    ours: rounded(ours),
    peers: Object.fromEntries(Object.entries(others).map(([name, value]) => [name, rounded(value)])),
    ratio: rounded(ratioOf(ours, others, higherIsBetter)),
    bar: Object.keys(peers).length > 0 ? (entry.bar ?? null) : null,
    higherIsBetter,
    runs: RUNS,
  };
}

export async function run(): Promise<BenchRow[]> {
  const core = await instantiateCore();
  const data = prepare(core);
  const inC = new CKernels();
  try {
    if (inC.available && inC.time("crc").checksum !== core.kernels.crc32c(data.noise, DATA_BYTES, 0)) {
      throw new Error("the kernels in C and in WebAssembly do not compute the same");
    }
    const cases = [...byteCases(core, data), ...pageCases(core, data), ...bitmapCases(core)];
    return cases.map((entry) => measure(entry, inC));
  } finally {
    inC.remove();
  }
}
