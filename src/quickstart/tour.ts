/**
 * What the quickstart does, step by step, and how it knows that it was right.
 *
 *   1. first copy: a QuickOPC is fired while the writer writes. The copy must hold the writer's records 1 to k for
 *      some k, and no other: it is compared, byte by byte, with the original image and these k records put over it.
 *   2. copy again: the same pair is fired again, the writer still writing. The granules the box plans must be as many as
 *      the records since the first point touch, and the copy must now be the source after a later record.
 *   3. restore: the writer stops, an accident overwrites part of the source, and the copy is copied back. The planned
 *      granules must be those touched since the second point, and the source must again be what it was then.
 * The box is asked for nothing that it is judged by, except how much it planned and moved.
 */
import { join } from "node:path";
import { systemRandom } from "../base/clock.ts";
import { granuleCountOf, MiB, SECTOR_SIZE_BYTES } from "../base/units.ts";
import type { Connection } from "../client/connection.ts";
import { type Copy, CopyKind } from "../gen/tidemark/v1/copy.ts";
import type { BoxAddresses } from "./box-process.ts";
import { type Comparison, compareWithReplay } from "./compare.ts";
import { addExport, createVolume, finishedCopy, reasonName, registerVolume, startCopy } from "./copies.ts";
import { check } from "./failure.ts";
import type { Image } from "./image.ts";
import { NbdClient } from "./nbd-client.ts";
import { RecordLog } from "./record-log.ts";
import { Writer } from "./writer.ts";

/** Records before the first point, and between the end of the first copy and the second point. */
const RECORDS_BEFORE_POINT = 100;
const ACCIDENT_BYTES_MAX = 16 * MiB;

export interface Step {
  readonly step: "first copy" | "copy again" | "restore";
  readonly copyId: string;
  readonly kind: "quickopc" | "opc";
  readonly reason: string;
  /** The destination holds the writer's records up to this one. */
  readonly record: number;
  /** Records that were sent while the point was being fired: the ones among which it had to fall. */
  readonly recordsDuringPoint: number;
  /** From the request to the answer: from then on the destination can be used. */
  readonly usableMs: number;
  /** How long writes were held. */
  readonly barrierMs: number;
  /** From the request until everything was copied. */
  readonly copiedMs: number;
  readonly plannedGranules: number;
  /** Counted from the writer's log, not asked from the box. */
  readonly touchedGranules: number;
  readonly bytesPlanned: number;
  readonly bytesCopied: number;
  readonly bytesZeroed: number;
  readonly bytesCloned: number;
  readonly expectedSha256: string;
  readonly actualSha256: string;
}

export interface TourResult {
  readonly source: string;
  readonly destination: string;
  readonly sourceUri: string;
  readonly totalGranules: number;
  readonly records: number;
  readonly recordBytes: number;
  readonly steps: readonly Step[];
}

export interface TourParts {
  readonly addresses: BoxAddresses;
  readonly connection: Connection;
  readonly image: Image;
  readonly directory: string;
  readonly signal: AbortSignal;
  /** One line about what is being done. */
  readonly say: (text: string) => void;
}

/** Goes through all steps. Throws at the first check that does not hold. */
export async function tour(parts: TourParts): Promise<TourResult> {
  const { connection, image, directory, addresses, signal } = parts;
  const source = await registerVolume(connection, image.workingPath, "source");
  const path = join(directory, "copy.img");
  const destination = await createVolume(connection, { path, sizeBytes: image.sizeBytes, label: "copy" });
  const sourceUri = await addExport(connection, source, "writable");
  await addExport(connection, destination, "read-only");
  const clients: NbdClient[] = [];
  const connect = async (name: string) => {
    const client = await NbdClient.connect(addresses.nbdSocket, name, signal);
    clients.push(client);
    return client;
  };
  try {
    const log = new RecordLog(systemRandom.bytes(16));
    const writer = new Writer(await connect(source), log, systemRandom.bytes(16), signal);
    const stage = { ...parts, log, writer, source, destination, copied: await connect(destination) };
    const steps = await allSteps(stage, await connect(source));
    await image.verifyUntouched();
    const totalGranules = granuleCountOf(image.sizeBytes);
    return { source, destination, sourceUri, totalGranules, records: log.last, recordBytes: log.bytes, steps };
  } finally {
    for (const client of clients) client.close();
  }
}

interface Stage extends TourParts {
  readonly log: RecordLog;
  readonly writer: Writer;
  readonly source: string;
  readonly destination: string;
  /** The destination as its hosts see it. */
  readonly copied: NbdClient;
}

async function allSteps(stage: Stage, sourceReader: NbdClient): Promise<Step[]> {
  const { writer, say } = stage;
  writer.start();
  await writer.advance(RECORDS_BEFORE_POINT);
  say("QuickOPC is fired while the writer writes");
  const first = await copyWhileWriting(stage, "first copy", 0);
  await writer.advance(RECORDS_BEFORE_POINT);
  say("QuickOPC is fired again: only what was written since is to be copied");
  const second = await copyWhileWriting(stage, "copy again", first.record);
  await writer.advance(RECORDS_BEFORE_POINT);
  await writer.stop();
  say("the source is overwritten by accident, and restored from the copy");
  const third = await restore(stage, sourceReader, second.record);
  return [first, second, third];
}

/** Fires the pair while the writer writes; finds out which instant the copy holds, and checks it. */
async function copyWhileWriting(stage: Stage, step: Step["step"], before: number): Promise<Step> {
  const { writer, log, copied, connection, source, destination } = stage;
  const from = writer.acknowledged;
  const startedMs = performance.now();
  const fired = await startCopy(connection, { source, destination, kind: CopyKind.QUICKOPC });
  const usableMs = performance.now() - startedMs;
  const to = log.last;
  const [record, { finished, copiedMs }] = await Promise.all([
    log.lastPresent((offset, length) => copied.read(offset, length), { from, to }),
    whenFinished(connection, fired.id, startedMs),
  ]);
  const comparison = await compareWithReplay(copied, stage.image, log, record);
  requireEqual(comparison, `the copy is the source after record ${record}`);
  const touchedGranules = log.granulesBetween(before, record);
  const times = { usableMs, copiedMs };
  const point = { step, record, recordsDuringPoint: to - from, touchedGranules };
  const result = stepOf(point, fired, finished, times, comparison);
  if (step === "copy again") requirePlanned(result);
  return result;
}

async function whenFinished(connection: Connection, id: string, startedMs: number) {
  const finished = await finishedCopy(connection, id);
  return { finished, copiedMs: performance.now() - startedMs };
}

/** The accident and the way back, with the writer stopped. */
async function restore(stage: Stage, sourceReader: NbdClient, record: number): Promise<Step> {
  const { writer, log, connection, source, destination, image } = stage;
  const sectors = image.sizeBytes / SECTOR_SIZE_BYTES;
  const lengthBytes = Math.min(ACCIDENT_BYTES_MAX, Math.ceil(sectors / 8) * SECTOR_SIZE_BYTES);
  await writer.overwrite(Math.floor(sectors / 2) * SECTOR_SIZE_BYTES, lengthBytes);
  const touchedGranules = log.granulesBetween(record, log.last);
  const startedMs = performance.now();
  const fired = await startCopy(connection, { source: destination, destination: source, kind: CopyKind.OPC });
  const usableMs = performance.now() - startedMs;
  const { finished, copiedMs } = await whenFinished(connection, fired.id, startedMs);
  const comparison = await compareWithReplay(sourceReader, image, log, record);
  requireEqual(comparison, `the restored source is what it was after record ${record}`);
  const point = { step: "restore" as const, record, recordsDuringPoint: 0, touchedGranules };
  const result = stepOf(point, fired, finished, { usableMs, copiedMs }, comparison);
  requirePlanned(result);
  return result;
}

function stepOf(
  point: Pick<Step, "step" | "record" | "recordsDuringPoint" | "touchedGranules">,
  fired: Copy,
  finished: Copy,
  times: { usableMs: number; copiedMs: number },
  { expectedSha256, actualSha256 }: Comparison,
): Step {
  return {
    ...point,
    ...times,
    copyId: finished.id,
    kind: finished.kind === CopyKind.OPC ? "opc" : "quickopc",
    reason: reasonName(finished.reason),
    barrierMs: Number(fired.barrierMicroseconds) / 1000,
    plannedGranules: Number(finished.plannedGranules),
    bytesPlanned: Number(finished.bytesPlanned),
    bytesCopied: Number(finished.bytesCopied),
    bytesZeroed: Number(finished.bytesZeroed),
    bytesCloned: Number(finished.bytesCloned),
    expectedSha256,
    actualSha256,
  };
}

function requireEqual({ firstDifference, expectedSha256, actualSha256 }: Comparison, what: string): void {
  check(firstDifference === undefined, `${what}: byte ${firstDifference} differs`);
  check(expectedSha256 === actualSha256, `${what}: ${actualSha256} instead of ${expectedSha256}`);
}

/** Only what changed: the box planned what the log says, and moved no more than it planned. */
function requirePlanned(step: Step): void {
  const { plannedGranules, touchedGranules, bytesPlanned } = step;
  check(
    plannedGranules === touchedGranules,
    `${step.step}: the box planned ${plannedGranules} granules, the writer had touched ${touchedGranules}`,
  );
  const moved = step.bytesCopied + step.bytesZeroed + step.bytesCloned;
  check(moved === bytesPlanned, `${step.step}: ${moved} bytes were moved, ${bytesPlanned} were planned`);
}
