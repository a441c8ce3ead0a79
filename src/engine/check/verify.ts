/**
 * One check a format: superblock, map file, frame log. Each reads the whole file through the production decoder, changes
 * nothing, and reports what it finds instead of throwing.
 */
import { AssertionError } from "../../base/assert.ts";
import { asTidemarkError } from "../../base/errors.ts";
import { readLog } from "../durable/frame-replay.ts";
import type { ExpectedEnd } from "../durable/log-end.ts";
import { type ExpectedMap, verifyMap } from "../durable/map-file.ts";
import { corruptFile, type StateFile, type StateFiles } from "../durable/state-files.ts";
import { SUPERBLOCK_SLOT_BYTES, Superblock, type SuperblockKind } from "../durable/superblock.ts";
import type { MetadataFinding } from "../engine-api.ts";
import type { Core } from "../map/core.ts";
import { type FindingContext, type FindingList, harmless } from "./finding.ts";

/** What a check works on. */
export interface Checks {
  /** Read-only: read-only-files.ts. */
  readonly files: StateFiles;
  readonly core: Core;
  readonly findings: FindingList;
  readonly tally: { files: number };
  /** What the last stop has left of logs, by path, if it was a clean one. */
  readonly logEnds?: ReadonlyMap<string, ExpectedEnd>;
}

/** The record that counts; undefined when there is none to rely on. */
export async function checkSuperblock<T>(
  checks: Checks,
  context: FindingContext,
  owner: { readonly kind: SuperblockKind; readonly id: string },
  decode: (value: unknown) => T,
): Promise<T | undefined> {
  const { path } = context;
  return reporting(checks, context, async () => {
    const superblock = await Superblock.open(checks.files, path, owner.kind, owner.id, decode);
    const { value, damagedSlot } = superblock;
    await superblock.close();
    if (damagedSlot !== undefined) checks.findings.add(staleSlot(context, damagedSlot));
    return value;
  });
}

export function staleSlot(context: FindingContext, slot: number): MetadataFinding {
  const message = `slot ${slot} is damaged or older than it should be; the other slot counts`;
  return { ...harmless("stale", { ...context, message, offsetBytes: slot * SUPERBLOCK_SLOT_BYTES }), page: slot };
}

/** False when the map cannot be relied on. */
export async function checkMap(checks: Checks, context: FindingContext, expected: ExpectedMap): Promise<boolean> {
  const whole = await reporting(checks, context, async () => {
    await verifyMap(checks.files, context.path, expected, checks.core);
    return true;
  });
  return whole ?? false;
}

/**
 * `storedBytes`: the log is in use, and so much of it is acknowledged; what comes behind is not looked at, all before must be
 * whole. `expected`: what a superblock says that it has. False when the log cannot be relied on; then what `onPayload` has received counts for nothing. */
export async function checkLog(
  checks: Checks,
  context: FindingContext,
  owner: { readonly kind: string; readonly id: string },
  onPayload: (payload: Uint8Array) => void,
  storedBytes?: number,
  expected?: ExpectedEnd,
): Promise<boolean> {
  const whole = await reporting(checks, context, async () => {
    const opened = await checks.files.open(context.path, { create: "must-exist" });
    const file = storedBytes === undefined ? opened : firstPartOf(opened, storedBytes);
    try {
      const { end } = await readLog(file, owner.kind, owner.id, onPayload, {
        sequence: 0,
        dataSequence: 0,
        ...(checks.logEnds?.get(context.path) ?? expected),
        onLostMark: ({ message }) => checks.findings.add(harmless("torn-tail", { ...context, message })),
      });
      const tornBytes = (storedBytes ?? end.fileBytes) - end.endBytes;
      if (tornBytes > 0 && storedBytes !== undefined)
        throw corruptFile(context.path, `the record at offset ${end.endBytes} is damaged or missing`, {
          offset: String(end.endBytes),
        });
      if (tornBytes > 0) {
        const message = `the last ${tornBytes} bytes are no whole record: nobody was told that they were durable`;
        checks.findings.add(harmless("torn-tail", { ...context, message, offsetBytes: end.endBytes }));
      }
      return true;
    } finally {
      await file.close();
    }
  });
  return whole ?? false;
}

/** A file as if it ended there. */
function firstPartOf(file: StateFile, lengthBytes: number): StateFile {
  return {
    path: file.path,
    size: async () => Math.min(await file.size(), lengthBytes),
    read: (offsetBytes, wantedBytes) => {
      const leftBytes = Math.max(0, lengthBytes - offsetBytes);
      return file.read(Math.min(offsetBytes, lengthBytes), Math.min(wantedBytes, leftBytes));
    },
    write: (offsetBytes, data) => file.write(offsetBytes, data),
    truncate: (newBytes) => file.truncate(newBytes),
    sync: () => file.sync(),
    close: () => file.close(),
  };
}

/** The step's result; undefined, and a finding, when it throws. A check that is stopped says nothing. */
export async function reporting<T>(
  checks: Checks,
  context: FindingContext,
  step: () => Promise<T>,
): Promise<T | undefined> {
  checks.tally.files++;
  try {
    return await step();
  } catch (error) {
    if (error instanceof AssertionError || asTidemarkError(error).code === "STOPPING") throw error;
    checks.findings.addError(error, context);
    return undefined;
  }
}
