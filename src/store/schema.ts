/**
 * Schema: which form the whole store has, and how an older form becomes the present one.
 *
 * Rules: the version row is written with the first commit of an empty store; a newer version is refused, untouched; an
 * older one is lifted version by version, each step one atomic batch that includes the new version, so that a crash
 * between steps leaves a store that the next start lifts on.
 */
import { TidemarkError } from "../base/errors.ts";
import * as wire from "../gen/tidemark/store/v1/store.ts";
import { corruptValue, isFirstFormat, openValue, sealValue } from "./envelope.ts";
import type { KeyValue, KeyValueChange } from "./key-value.ts";
import { EVERY_KEY, storeKey } from "./keys.ts";

/** What turns version `n` into `n + 1`: changes computed from the store as it is. */
export type Migration = (from: KeyValue) => Promise<readonly KeyValueChange[]>;

export interface Schema {
  readonly version: number;
  /** Key `n` lifts version `n` to `n + 1`. */
  readonly migrations: ReadonlyMap<number, Migration>;
}

/** Version 2: another checksum in the envelope, and the tally. Stores of version 1 were never released: they are refused. */
export const SCHEMA: Schema = { version: 2, migrations: new Map() };

export const SCHEMA_KEY = storeKey("schema", "version");

/** Checks and, where needed, lifts the schema. SCHEMA_TOO_NEW, STATE_DIRECTORY_INVALID (too old), METADATA_CORRUPT. */
export async function settleSchema(engine: KeyValue, schema: Schema): Promise<void> {
  const value = await engine.get(SCHEMA_KEY);
  if (value === undefined) {
    if (!(await isEmpty(engine))) throw corruptValue(SCHEMA_KEY, "it is missing although the store has rows");
    await engine.batch([versionChange(schema.version)]);
    return;
  }
  if (isFirstFormat(SCHEMA_KEY, value)) throw tooOld(1, schema.version);
  const found = versionIn(openValue(SCHEMA_KEY, value));
  if (found > schema.version)
    throw new TidemarkError("SCHEMA_TOO_NEW", {
      message: `the data directory has schema version ${found}, this program knows ${schema.version}`,
      hint: "start the newer version of the program that wrote it",
      metadata: { found: String(found), known: String(schema.version) },
    });
  for (let version = found; version < schema.version; version++) {
    const migration = schema.migrations.get(version);
    if (migration === undefined) throw corruptValue(SCHEMA_KEY, `version ${version} is unknown`);
    await engine.batch([...(await migration(engine)), versionChange(version + 1)]);
  }
}

function tooOld(found: number, known: number): TidemarkError {
  return new TidemarkError("STATE_DIRECTORY_INVALID", {
    message: `the data directory has schema version ${found}, which this program (version ${known}) cannot read any more`,
    hint: "use the program that wrote it, or start with another data directory and register the volumes again",
    metadata: { found: String(found), known: String(known) },
  });
}

function versionIn(body: Uint8Array): number {
  try {
    return wire.SchemaRow.decode(body).version;
  } catch (error) {
    throw corruptValue(SCHEMA_KEY, error instanceof Error ? error.message : String(error), error);
  }
}

function versionChange(version: number): KeyValueChange {
  const body = wire.SchemaRow.encode({ version }).finish();
  return { type: "put", key: SCHEMA_KEY, value: sealValue(SCHEMA_KEY, body) };
}

async function isEmpty(engine: KeyValue): Promise<boolean> {
  for await (const _ of engine.entries({ ...EVERY_KEY, reverse: false, limit: 1 })) return false;
  return true;
}
