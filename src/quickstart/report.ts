/** The result of the quickstart: one table for people, one object for programs. */
import { type Column, renderTable } from "../client/display/table.ts";
import { formatSize } from "../client/display/units.ts";
import type { Image } from "./image.ts";
import type { Step, TourResult } from "./tour.ts";

export interface Result {
  readonly image: Image;
  readonly tour: TourResult;
  readonly startMs: number;
  readonly totalMs: number;
  /** The box that was left running. */
  readonly kept: { readonly address: string; readonly pid: number; readonly directory: string } | undefined;
}

const COLUMNS: readonly Column<Step>[] = [
  { title: "STEP", cell: ({ step }) => step },
  { title: "FUNCTION", cell: ({ kind, step }) => (step === "restore" ? `reverse ${kind}` : kind) },
  { title: "USABLE AFTER", align: "right", cell: ({ usableMs }) => milliseconds(usableMs) },
  { title: "WRITES HELD", align: "right", cell: ({ barrierMs }) => milliseconds(barrierMs) },
  { title: "GRANULES", align: "right", cell: ({ plannedGranules }) => String(plannedGranules) },
  { title: "COPIED", align: "right", cell: ({ bytesCopied }) => size(bytesCopied) },
  { title: "ZEROS", align: "right", cell: ({ bytesZeroed }) => (bytesZeroed > 0 ? size(bytesZeroed) : "") },
  { title: "SHARED", align: "right", cell: ({ bytesCloned }) => (bytesCloned > 0 ? size(bytesCloned) : "") },
  { title: "TOOK", align: "right", cell: ({ copiedMs }) => seconds(copiedMs) },
  { title: "SHA-256", cell: ({ actualSha256 }) => `${actualSha256.slice(0, 12)} = expected` },
];

/** The table, what was checked, and how to go on. */
export function textOf(result: Result): string {
  const { image, tour } = result;
  const [first, second, third] = tour.steps;
  return [
    `${size(image.sizeBytes)} image with ${size(image.dataBytes)} of data: ${image.description}.`,
    `A writer sent ${tour.records} numbered records (${size(tour.recordBytes)}) over NBD meanwhile.`,
    "",
    renderTable(COLUMNS, tour.steps).trimEnd(),
    "",
    "Checked, with the original image and the writer's own log, byte by byte:",
    `  first copy   is the source after record ${first?.record} and holds no later one; ` +
      `${first?.recordsDuringPoint} were sent while the point was fired`,
    `  copy again   planned ${second?.plannedGranules} of ${tour.totalGranules} granules: those that records ` +
      `${(first?.record ?? 0) + 1} to ${second?.record} touch; the copy is the source after record ${second?.record}`,
    `  restore      planned ${third?.plannedGranules} granules: those written since; the source is again what it was ` +
      `after record ${third?.record}`,
    `All of it took ${seconds(result.totalMs)}.`,
    "",
    ...goOn(result),
    "",
  ].join("\n");
}

function goOn({ kept, tour }: Result): string[] {
  if (kept === undefined)
    return [
      "The box and its directory are gone. To look around in one that goes on running:",
      "",
      "  npm run quickstart -- --keep",
      "",
      'To start one of your own, see README.md, "The first ten minutes".',
    ];
  const { source, destination } = tour;
  const commands: readonly (readonly [string, string])[] = [
    ["npx tidemark volume list", "the two volumes"],
    ["npx tidemark copy list", "the session that goes on tracking"],
    [`npx tidemark copy explain ${source} ${destination} --kind quickopc`, "what the next copy would move, and why"],
    ["npx tidemark copy restart c1 --wait", "copy what changed"],
    ["npx tidemark export list", "for nbdinfo, qemu-img, nbdcopy, fio"],
    ["npx tidemark events", "what happened so far"],
  ];
  const width = Math.max(...commands.map(([command]) => command.length));
  return [
    `The box goes on running (process ${kept.pid}, everything it has is in ${kept.directory}). Try:`,
    "",
    `  export TIDEMARK_ADDRESS=${kept.address}`,
    ...commands.map(([command, what]) => `  ${command.padEnd(width)}  # ${what}`),
    "",
    `To end it:  kill ${kept.pid}; rm -r ${kept.directory}`,
  ];
}

/** One object on one line. */
export function jsonOf({ image, tour, startMs, totalMs, kept }: Result): string {
  const { kind, sizeBytes, dataBytes } = image;
  const path = kind === "given" ? { path: image.originalPath } : {};
  return `${JSON.stringify({ image: { kind, ...path, sizeBytes, dataBytes }, ...tour, startMs, totalMs, box: kept })}\n`;
}

function size(bytes: number): string {
  return formatSize(BigInt(bytes));
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

function milliseconds(ms: number): string {
  return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
}
