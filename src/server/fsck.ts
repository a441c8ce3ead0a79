/**
 * fsck: the data directory of a box that does not run, looked at as a whole, and repaired if that is asked for.
 *
 * Role: the second composition root beside daemon.ts: builds store and engine files for a check instead of a daemon.
 * Invariants:
 *   1. The directory is locked meanwhile, so no daemon uses it.
 *   2. Without `repair` nothing in it changes but the text of LOCK: LevelDB, which writes whenever it is opened, is opened
 *      in a copy elsewhere.
 *   3. A repair is made only when the rows say which volumes are registered, and only when a start would leave nothing alone.
 *   4. A database that is older than the state is taken only when that is asked for; one that is damaged, never.
 */
import { cp, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { acceptDatabase, type KnownDatabase, mismatch, readRecord } from "../domain/binding.ts";
import { hintsOf } from "../domain/out-of-service.ts";
import { type CheckedRows, checkCopies, checkRows, DATABASE_PATH, inDataDirectory } from "../domain/row-checks.ts";
import { checkState, type StateCheck } from "../engine/check/check-state.ts";
import { findingOf } from "../engine/check/finding.ts";
import { readOnlyFiles } from "../engine/check/read-only-files.ts";
import { isRepairable, repairState } from "../engine/check/repair.ts";
import { native } from "../engine/device/native.ts";
import { BOX_FILE } from "../engine/durable/box-file.ts";
import { systemStateFiles } from "../engine/durable/system-state-files.ts";
import type { MetadataFinding } from "../engine/engine-api.ts";
import { openLevelStore } from "../store/leveldb/leveldb.ts";
import type { TalliedStore } from "../store/store.ts";
import { lockStateDirectory, type StateDirectory } from "./state-directory.ts";

export interface FsckFinding {
  /** Its path is relative to the data directory. */
  readonly finding: MetadataFinding;
  readonly state: "repaired" | "left";
}

export interface FsckReport {
  readonly directory: string;
  readonly findings: readonly FsckFinding[];
  /** Findings beyond the bound of what is kept. */
  readonly omitted: number;
  readonly files: number;
  readonly bytes: number;
  /** What a repair had to say of what could not be kept. */
  readonly said: readonly string[];
  /** Why nothing was repaired although that was asked for. */
  readonly refusal: string | undefined;
}

/** `accept`: the database is the newest there is, although the state knows a newer one. */
export type FsckAction = "look" | "repair" | "accept";

/** STATE_DIRECTORY_LOCKED, STATE_DIRECTORY_INVALID, and what the disk throws. */
export async function fsck(dataDirectory: string, action: FsckAction): Promise<FsckReport> {
  const directory = await lockStateDirectory(dataDirectory, native?.lockExclusiveAsync);
  try {
    const rows = await readDatabase(directory);
    const before = await lookAt(directory, rows);
    if (action === "accept") return await accept(directory, rows, before);
    if (action === "look") return reportOf(directory, rows, before, { said: [], refusal: undefined });
    const refusal = refusalOf(rows, before);
    if (refusal !== undefined || !before.findings.some(({ repairable }) => repairable))
      return reportOf(directory, rows, before, { said: [], refusal });
    const { said, after } = await repairState(systemStateFiles(directory.engine), rows.volumes ?? []);
    return reportOf(directory, rows, before, { said, refusal: undefined }, after);
  } finally {
    await directory.release();
  }
}

/** What was read of the database. */
interface Database extends CheckedRows {
  /** Undefined when it does not hold together. */
  readonly known: KnownDatabase | undefined;
  /** Why it must not be used with this state. */
  readonly mismatch: MetadataFinding | undefined;
}

async function accept(directory: StateDirectory, rows: Database, state: StateCheck): Promise<FsckReport> {
  const unchanged = (refusal: string) => reportOf(directory, rows, state, { said: [], refusal });
  if (rows.known === undefined) return unchanged("the database is damaged: it has to be restored first");
  if (rows.mismatch === undefined) return unchanged("the database belongs to this state already");
  try {
    await acceptDatabase(systemStateFiles(directory.engine), rows.known);
  } catch (error) {
    if (error instanceof TidemarkError && error.code === "STATE_DIRECTORY_INVALID") return unchanged(error.message);
    throw error;
  }
  const said = ["the database is taken for the one that belongs to this state from now on"];
  return reportOf(directory, { ...rows, mismatch: undefined }, state, { said, refusal: undefined });
}

/** The state directory; one that is not there is a finding, too. */
async function lookAt(directory: StateDirectory, rows: CheckedRows): Promise<StateCheck> {
  try {
    const hints = hintsOf(rows.copies?.rows ?? [], new Map());
    return await checkState(systemStateFiles(directory.engine), rows.volumes, hints);
  } catch (error) {
    const context = {
      path: "",
      subject: "",
      cost: "all copies, and what they track, are unknown",
      remedy: "restore the `state` folder from where it was moved; without it every copy has to be started again",
    };
    const findings = [{ ...findingOf(error, context), repairable: false }];
    return { findings, omitted: 0, files: 0, bytes: 0, sessions: [], endedIds: [], outOfServiceIds: [] };
  }
}

function refusalOf(rows: Database, state: StateCheck): string | undefined {
  if (rows.volumes === undefined) return "the database does not say which volumes are registered";
  if (rows.mismatch !== undefined || rows.findings.some(({ cost }) => cost === STARTS_NOT))
    return "the database has to be restored first";
  if (state.omitted > 0) return "there are too many findings: the disk below is not to be trusted";
  return isRepairable(state.findings) ? undefined : "files that must not be opened have to be seen to first";
}

const STARTS_NOT = "the box does not start";

function reportOf(
  directory: StateDirectory,
  rows: Database,
  before: StateCheck,
  repair: Pick<FsckReport, "said" | "refusal">,
  after: StateCheck = before,
): FsckReport {
  const left = (finding: MetadataFinding) => after.findings.some((other) => isSame(other, finding));
  const found = before.findings.map(
    (finding): FsckFinding => ({ finding: inDataDirectory(finding), state: left(finding) ? "left" : "repaired" }),
  );
  const fresh = after.findings.filter((finding) => !before.findings.some((other) => isSame(other, finding)));
  const ofDatabase = rows.mismatch === undefined ? rows.findings : [...rows.findings, rows.mismatch];
  const ofRows = [...ofDatabase, ...checkCopies(rows, after)];
  const { files, bytes, omitted } = before;
  return {
    directory: directory.path,
    findings: [
      ...ofRows.map((finding): FsckFinding => ({ finding, state: "left" })),
      ...found,
      ...fresh.map((finding): FsckFinding => ({ finding: inDataDirectory(finding), state: "left" })),
    ],
    ...{ files, bytes, omitted, ...repair },
  };
}

function isSame(one: MetadataFinding, other: MetadataFinding): boolean {
  return one.path === other.path && one.kind === other.kind && one.offsetBytes === other.offsetBytes;
}

/** The rows, read from a copy, and whether they are those of this state. */
async function readDatabase(directory: StateDirectory): Promise<Database> {
  const { database, engine } = directory;
  if (!(await exists(join(database, "CURRENT")))) {
    if (!(await exists(join(engine, "sessions"))) && !(await exists(join(engine, BOX_FILE))))
      return { ...NOTHING, findings: [], volumes: [] };
    return { ...NOTHING, findings: [databaseFinding("missing", `${database} is missing or empty`)] };
  }
  const read = await readCopy(directory);
  if (read.known === undefined) return read;
  const files = readOnlyFiles(systemStateFiles(engine), async () => undefined);
  const error = await readRecord(files).then(
    (recorded) => mismatch(read.known as KnownDatabase, recorded),
    () => undefined, // the file must not be opened: the check of the state says so
  );
  return error === undefined ? read : { ...read, mismatch: mismatchFinding(error) };
}

const NOTHING: Omit<Database, "findings"> = {
  ...{ volumes: undefined, copies: undefined, known: undefined, mismatch: undefined },
};

async function readCopy({ path, database }: StateDirectory): Promise<Database> {
  const temporary = await mkdtemp(join(tmpdir(), "tidemark-fsck-"));
  const copy = join(temporary, "db");
  try {
    await cp(database, copy, { recursive: true });
    const store = await openLevelStore(copy);
    try {
      return await readRows(store);
    } finally {
      await store.close();
    }
  } catch (error) {
    const { code, message, detail } = asTidemarkError(error);
    const kind = code === "SCHEMA_TOO_NEW" ? "too-new" : code === "METADATA_CORRUPT" ? "damaged" : "unreadable";
    const told = message.replaceAll(copy, database).replaceAll(`${path}/`, "");
    return { ...NOTHING, findings: [databaseFinding(kind, told, detail.hint)] };
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function readRows(store: TalliedStore): Promise<Database> {
  const rows = await checkRows(store);
  const { tally, damage } = await store.examine();
  if (damage === undefined) {
    const known = { box: await store.get("box", "box"), tally };
    return { ...rows, known, mismatch: undefined };
  }
  const { message, detail } = damage;
  const isTold = rows.findings.some((finding) => finding.message === message);
  const findings = isTold ? rows.findings : [...rows.findings, databaseFinding("damaged", message, detail.hint)];
  // What is there may not be all there is.
  return { ...NOTHING, findings };
}

function mismatchFinding({ code, message, detail }: TidemarkError): MetadataFinding {
  const path = detail.metadata?.["path"] ?? DATABASE_PATH;
  const isInvalid = code === "STATE_DIRECTORY_INVALID";
  const kind = path === DATABASE_PATH ? (isInvalid ? "foreign" : "stale") : isInvalid ? "missing" : "damaged";
  return { ...databaseFinding(kind, message, detail.hint), path };
}

function databaseFinding(kind: MetadataFinding["kind"], message: string, hint?: string): MetadataFinding {
  return {
    ...{ kind, severity: "error", path: DATABASE_PATH, offsetBytes: undefined, page: undefined, subject: "", message },
    ...{ cost: STARTS_NOT, remedy: hint ?? "restore the `db` folder from a backup", repairable: false },
  };
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code !== "ENOENT",
  );
}
