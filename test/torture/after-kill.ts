/** After a kill and a new start: what became of the command and the writes that were under way. */
import type { Contents, Volume, Write } from "./contents.ts";
import type { CopyBook, CopyFacts } from "./copy-book.ts";
import type { Point, PointPair } from "./cut.ts";
import type { Hosts } from "./hosts.ts";
import { adopt, readImage } from "./images.ts";
import type { KillableBox } from "./killable-box.ts";
import { copyStopsTracking, type OpenCommand, recordPoint } from "./operator.ts";
import { BLOCK_BYTES, describeBlock, writeOf } from "./stamps.ts";
import { require, type Tally } from "./violations.ts";

export interface AfterKillParts {
  readonly box: KillableBox;
  readonly contents: Contents;
  readonly book: CopyBook;
  readonly hosts: Hosts;
  readonly tally: Tally;
}

export interface Listing {
  readonly live: readonly CopyFacts[];
  readonly ended: readonly CopyFacts[];
}

/** Brings the oracle up to what is: the open command first, then the writes. Nobody writes meanwhile. */
export async function settleAfterKill(
  parts: AfterKillParts,
  open: OpenCommand | undefined,
  listing: Listing,
): Promise<void> {
  let carried: readonly Write[] = [];
  if (open?.type === "point") carried = await settlePoint(parts, open, listing);
  else if (open !== undefined) await settleEnd(parts, open, listing);
  await settleWrites(parts);
  for (const write of carried) requireAtSource(parts.contents, write);
}

async function settlePoint(
  parts: AfterKillParts,
  open: OpenCommand & { type: "point" },
  listing: Listing,
): Promise<readonly Write[]> {
  const { book, hosts, tally } = parts;
  const { point } = open;
  point.close();
  if (!open.recorded) {
    const copies = copiesOfPoint(book, point, listing);
    if (copies === undefined) {
      tally.pointsKilledNot++;
      point.forget();
      return [];
    }
    recordPoint(book, point, copies, "the point under way");
    tally.pointsKilledHappened++;
  }
  return point.settle((volume, block) => hosts.readBlocks(volume, block, 1));
}

/** The copies of a point that has happened; undefined when it has not. All pairs of a point have happened or none. */
export function copiesOfPoint(
  book: CopyBook,
  point: Point,
  { live, ended }: Listing,
): readonly CopyFacts[] | undefined {
  const found = point.pairs.flatMap((pair) => [...live, ...ended].find((facts) => isOfPoint(book, facts, pair)) ?? []);
  require(found.length === 0 || found.length === point.pairs.length, () =>
    `a point has happened for ${found.map(({ id }) => id).join(", ")} and not for all of its ${point.pairs.length} pairs`);
  return found.length === 0 ? undefined : found;
}

function isOfPoint(book: CopyBook, facts: CopyFacts, { source, destination }: PointPair): boolean {
  if (facts.source !== source.label || facts.destination !== destination.label) return false;
  const before = book.find(facts.id);
  return before === undefined ? book.isNewNumber(facts.id) : facts.generation > before.generation;
}

async function settleEnd(
  { box, book }: AfterKillParts,
  open: OpenCommand & { type: "cancel" | "stop-tracking" },
  { live, ended }: Listing,
): Promise<void> {
  const { copy, type } = open;
  const now = live.find(({ id }) => id === copy.id);
  if (now !== undefined) {
    if (type === "stop-tracking" && copy.tracking && !now.tracking) copyStopsTracking(copy);
    return;
  }
  const end = ended.find(({ id }) => id === copy.id)?.phase;
  const allowed = type === "cancel" ? ["cancelled", "completed"] : ["completed"];
  require(end !== undefined && allowed.includes(end), () => `${copy.id} is gone after ${type}; it is known as ${end}`);
  book.copies.delete(copy.id);
  if (end === "cancelled" && !copy.finished) adopt(copy.destination, await readImage(box, copy.destination));
}

/** A write under way has happened or not; what is found stays. */
async function settleWrites({ contents, hosts }: AfterKillParts): Promise<void> {
  for (const volume of contents.volumes) {
    for (const [block, write] of volume.underWay) volume.current[block] = await found(hosts, volume, block, write);
    volume.underWay.clear();
  }
}

async function found(hosts: Hosts, volume: Volume, block: number, write: Write): Promise<number> {
  const bytes = await hosts.readBlocks(volume, block, 1);
  const number = writeOf(bytes.subarray(0, BLOCK_BYTES), block);
  const before = volume.current[block];
  require(number !== undefined && (number === write.number || number === before), () =>
    `${volume.label} block ${block}: ${describeBlock(bytes, block)}, expected ${before} or ${write.number}, which was under way`);
  return number;
}

/** A write that a destination has was at the source before. */
function requireAtSource(contents: Contents, write: Write): void {
  const { current, label } = contents.volume(write.volume);
  const last = write.firstBlock + write.blockCount;
  const blocks = Array.from({ length: last - write.firstBlock }, (_, at) => write.firstBlock + at);
  require(blocks.some((block) => current[block] === write.number), () =>
    `write ${write.number} is in the point, but its source ${label} does not have it`);
}
