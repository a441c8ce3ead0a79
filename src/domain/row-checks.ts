/**
 * Row checks: whether every row of the store can be read, and whether rows agree with each other and with the engine's
 * files. For a box that does not run; nothing is changed.
 *
 * A damaged row refuses the start of the box, whatever its table: what it said is not guessed.
 */
import type { TidemarkError } from "../base/errors.ts";
import type { MetadataFinding, VolumeSpec } from "../engine/engine-api.ts";
import type { CopyRow, ExportRow, Rows, TableName, VolumeRow } from "../store/rows.ts";
import type { Store } from "../store/store.ts";
import { volumeSpecOf } from "./catalog.ts";
import { COPY_COUNTER } from "./copy-numbers.ts";
import { copyId, parseCopyId, volumeName } from "./names.ts";

export type { MetadataFinding } from "../engine/engine-api.ts";

/** A row is no file of its own: findings of all rows name the database. */
export const DATABASE_PATH = "db";
const STATE_PATH = "state";

export interface CheckedRows {
  readonly findings: readonly MetadataFinding[];
  /** Undefined when a row that would say it is damaged. */
  readonly volumes: readonly VolumeSpec[] | undefined;
  /** What is said of copies; undefined when a row that would say it is damaged. */
  readonly copies: CopyRows | undefined;
}

interface CopyRows {
  readonly rows: readonly CopyRow[];
  /** Numbers of those that are over. */
  readonly ended: ReadonlySet<number>;
  /** The last number that may have been given out. */
  readonly lastNumber: number;
}

/** What the engine's files say of copies. */
export interface CopyFiles {
  readonly sessions: readonly { readonly id: string; readonly generation: number | undefined }[];
  /** Over, and perhaps not recorded yet. */
  readonly endedIds: readonly string[];
  /** Of which not everything could be looked at: nothing is said of them. */
  readonly outOfServiceIds: readonly string[];
}

const TOGETHER =
  "put back a database and a state directory of the same time; otherwise cancel the copy when the box runs, and start it again";

interface Found {
  readonly findings: MetadataFinding[];
  readonly damaged: Set<TableName>;
}

/** A finding of the engine, whose paths are relative to its own directory, as everybody else is told of it. */
export function inDataDirectory(finding: MetadataFinding): MetadataFinding {
  return { ...finding, path: finding.path === "" ? STATE_PATH : `${STATE_PATH}/${finding.path}` };
}

/** Every table, and what can be said of the rows alone. */
export async function checkRows(store: Store): Promise<CheckedRows> {
  const found: Found = { findings: [], damaged: new Set() };
  const [box] = await readTable(store, "box", found);
  const volumes = await readTable(store, "volumes", found);
  const exports = await readTable(store, "exports", found);
  const copies = await readTable(store, "copies", found);
  const ended = await readTable(store, "ended-copies", found);
  const counters = await readTable(store, "counters", found);
  const lastNumber = counters.find(({ name }) => name === COPY_COUNTER)?.value ?? 0;
  for (const table of ["events", "requests", "intents"] as const) await readTable(store, table, found);
  const identified = box !== undefined || volumes.length === 0;
  if (!identified && !found.damaged.has("box")) found.findings.push(missingBox());
  found.findings.push(...duplicates(volumes, box?.number ?? 1));
  if (!found.damaged.has("volumes")) found.findings.push(...orphans(exports, volumes));
  const registered = volumes.filter(({ state }) => state === "registered");
  const known = identified && !found.damaged.has("volumes") && !found.damaged.has("box");
  return {
    findings: found.findings,
    volumes: known ? registered.map((row) => volumeSpecOf(box?.number ?? 1, row)) : undefined,
    copies:
      found.damaged.size > 0
        ? undefined
        : { rows: copies, ended: new Set(ended.map(({ number }) => number)), lastNumber },
  };
}

/** Copies of which the engine has files, against what the rows say of them. The files are the authority. */
export function checkCopies({ copies }: CheckedRows, state: CopyFiles): MetadataFinding[] {
  if (copies === undefined) return [];
  const findings: MetadataFinding[] = [];
  const rows = new Map(copies.rows.map((row) => [row.number, row]));
  for (const { id, generation } of state.sessions) {
    const number = parseCopyId(id) ?? 0;
    const row = rows.get(number);
    rows.delete(number);
    if (state.outOfServiceIds.includes(id)) continue;
    if (number > copies.lastNumber) findings.push(olderDatabase(id, copies.lastNumber));
    else if (copies.ended.has(number)) findings.push(olderState(id, `copy ${id} is over`, "that it is not"));
    else if (row !== undefined && generation !== undefined && row.generation > generation)
      findings.push(olderState(id, `copy ${id} has run ${row.generation} times`, `${generation} times`));
  }
  for (const number of rows.keys()) {
    const id = copyId(number);
    const elsewhere = state.endedIds.includes(id) || state.outOfServiceIds.includes(id);
    if (!copies.ended.has(number) && !elsewhere) findings.push(lostFiles(id));
  }
  return findings;
}

function olderDatabase(id: string, lastNumber: number): MetadataFinding {
  return finding({
    kind: "stale",
    severity: "error",
    subject: id,
    message: `there are files of copy ${id}, but the database has given out no number above ${lastNumber}`,
    cost: "names and history of the box are older than its copies",
    remedy: TOGETHER,
  });
}

function olderState(id: string, database: string, files: string): MetadataFinding {
  return finding({
    kind: "stale",
    severity: "error",
    path: `${STATE_PATH}/sessions/${id}`,
    subject: id,
    message: `the database says that ${database}, its files say ${files}`,
    cost: "the state directory is older than the database: its maps may miss what was written since",
    remedy: TOGETHER,
  });
}

function lostFiles(id: string): MetadataFinding {
  return finding({
    kind: "missing",
    severity: "error",
    path: `${STATE_PATH}/sessions/${id}`,
    subject: id,
    message: `the database knows copy ${id}, and there are no files of it`,
    cost: `copy ${id} is recorded as over; its destination must not be relied on`,
    remedy: "put the files back if they were moved; otherwise start the copy again",
  });
}

async function readTable<T extends TableName>(store: Store, table: T, found: Found): Promise<Rows[T][]> {
  const rows: Rows[T][] = [];
  for await (const inspected of store.inspect(table)) {
    if ("row" in inspected) {
      rows.push(inspected.row);
      continue;
    }
    found.damaged.add(table);
    found.findings.push(damagedRow(inspected.error));
  }
  return rows;
}

function damagedRow({ code, message, detail }: TidemarkError): MetadataFinding {
  return finding({
    kind: code === "SCHEMA_TOO_NEW" ? "too-new" : "damaged",
    severity: "error",
    message,
    cost: "the box does not start",
    remedy: detail.hint ?? "restore the `db` folder from a backup",
  });
}

function missingBox(): MetadataFinding {
  return finding({
    kind: "missing",
    severity: "error",
    message: "there are volumes, but the row that says which box it is is missing",
    cost: "the box would be another one: its number, and with it the names of its volumes, may change",
    remedy: "restore the `db` folder from a backup",
  });
}

/** Numbers and paths are given to one volume only. */
function duplicates(volumes: readonly VolumeRow[], box: number): MetadataFinding[] {
  const findings: MetadataFinding[] = [];
  const seen = new Map<string, VolumeRow>();
  for (const row of volumes)
    for (const key of [`LU ${row.lu}`, `path ${row.path}`]) {
      const other = seen.get(key);
      if (other === undefined) {
        seen.set(key, row);
        continue;
      }
      findings.push(
        finding({
          kind: "unknown",
          severity: "error",
          subject: volumeName(box, row.lu),
          message: `volumes ${other.uid} and ${row.uid} both have ${key}`,
          cost: "only one of them can be used",
          remedy: "restore the `db` folder from a backup",
        }),
      );
    }
  return findings;
}

function orphans(exports: readonly ExportRow[], volumes: readonly VolumeRow[]): MetadataFinding[] {
  const known = new Set(volumes.map(({ uid }) => uid));
  return exports
    .filter(({ volumeUid }) => !known.has(volumeUid))
    .map(({ name, volumeUid }) =>
      finding({
        kind: "unknown",
        severity: "warning",
        subject: name,
        message: `export ${name} is of volume ${volumeUid}, which is not registered`,
        remedy: `start the box, then: tidemark export remove ${name}`,
      }),
    );
}

function finding(
  facts: Pick<MetadataFinding, "kind" | "severity" | "message" | "remedy"> & Partial<MetadataFinding>,
): MetadataFinding {
  const nowhere = { path: DATABASE_PATH, offsetBytes: undefined, page: undefined, subject: "" };
  return { ...nowhere, cost: "", repairable: false, ...facts };
}
