/**
 * Tables: key, encoding and decoding of each row type.
 *
 * Role: the only place that knows both the plain rows and their messages (proto/tidemark/store/v1).
 * Numbers travel as uint64; a stored number that is not exact in a double is damage, not data.
 */
import * as wire from "../gen/tidemark/store/v1/store.ts";
import type {
  CopyRow,
  EndedCopyRow,
  ExtentRow,
  IntentAction,
  IntentRow,
  KeyOf,
  Rows,
  TableName,
  VolumeRow,
  VolumeRowState,
} from "./rows.ts";

export interface Table<T extends TableName> {
  readonly keyOf: (row: Rows[T]) => KeyOf<T>;
  readonly encode: (row: Rows[T]) => Uint8Array;
  /** Throws any error on a body that is not such a row. */
  readonly decode: (body: Uint8Array) => Rows[T];
}

function exact(value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new RangeError(`${value} is beyond 2^53`);
  return number;
}

function oneOf<const W extends string>(words: readonly W[], value: string): W {
  const found = words.find((word) => word === value);
  if (found === undefined) throw new RangeError(`${JSON.stringify(value)} is not one of ${words.join(", ")}`);
  return found;
}

const VOLUME_STATES: readonly VolumeRowState[] = ["registered", "creating", "deleting"];
const ACTIONS: readonly IntentAction[] = ["fire", "cancel", "stop-tracking", "delete-volume"];

const extentToWire = (row: ExtentRow): wire.ExtentRow => ({
  volumeUid: row.volumeUid,
  name: row.name,
  offsetBytes: BigInt(row.offsetBytes),
  lengthBytes: BigInt(row.lengthBytes),
});

function extentFromWire(message: wire.ExtentRow | undefined): ExtentRow {
  if (message === undefined) throw new RangeError("an extent is missing");
  return {
    volumeUid: message.volumeUid,
    name: message.name,
    offsetBytes: exact(message.offsetBytes),
    lengthBytes: exact(message.lengthBytes),
  };
}

function decodeVolume(body: Uint8Array): VolumeRow {
  const message = wire.VolumeRow.decode(body);
  return {
    ...message,
    sizeBytes: exact(message.sizeBytes),
    backing: oneOf(["file", "block"], message.backing),
    createdMs: exact(message.createdMs),
    state: oneOf(VOLUME_STATES, message.state),
    resizingToBytes: exact(message.resizingToBytes),
  };
}

function encodeCopy(row: CopyRow): Uint8Array {
  return wire.CopyRow.encode({
    ...row,
    number: BigInt(row.number),
    source: extentToWire(row.source),
    destination: extentToWire(row.destination),
    createdMs: BigInt(row.createdMs),
    pointMs: BigInt(row.pointMs),
    generation: BigInt(row.generation),
  }).finish();
}

function decodeCopy(body: Uint8Array): CopyRow {
  const message = wire.CopyRow.decode(body);
  return {
    ...message,
    number: exact(message.number),
    source: extentFromWire(message.source),
    destination: extentFromWire(message.destination),
    createdMs: exact(message.createdMs),
    pointMs: exact(message.pointMs),
    generation: exact(message.generation),
  };
}

function encodeIntent(row: IntentRow): Uint8Array {
  return wire.IntentRow.encode({
    ...row,
    requestDigest: Buffer.from(row.requestDigest),
    begunMs: BigInt(row.begunMs),
    targets: row.targets.map((target) => ({
      newNumber: BigInt(target.newNumber),
      number: BigInt(target.number),
      generation: BigInt(target.generation),
      pointMs: BigInt(target.pointMs),
    })),
    sessions: row.sessions.map(BigInt),
  }).finish();
}

function decodeIntent(body: Uint8Array): IntentRow {
  const message = wire.IntentRow.decode(body);
  return {
    ...message,
    begunMs: exact(message.begunMs),
    action: oneOf(ACTIONS, message.action),
    targets: message.targets.map((target) => ({
      newNumber: exact(target.newNumber),
      number: exact(target.number),
      generation: exact(target.generation),
      pointMs: exact(target.pointMs),
    })),
    sessions: message.sessions.map(exact),
  };
}

function encodeEndedCopy(row: EndedCopyRow): Uint8Array {
  return wire.EndedCopyRow.encode({
    ...row,
    number: BigInt(row.number),
    source: extentToWire(row.source),
    destination: extentToWire(row.destination),
    createdMs: BigInt(row.createdMs),
    pointMs: BigInt(row.pointMs),
    endedMs: BigInt(row.endedMs),
    generation: BigInt(row.generation),
    plannedGranules: BigInt(row.plannedGranules),
    pendingGranules: BigInt(row.pendingGranules),
    changedGranules: BigInt(row.changedGranules),
    totalGranules: BigInt(row.totalGranules),
    bytesPlanned: BigInt(row.bytesPlanned),
    bytesCopied: BigInt(row.bytesCopied),
    bytesZeroed: BigInt(row.bytesZeroed),
    bytesCloned: BigInt(row.bytesCloned),
    barrierMicroseconds: BigInt(row.barrierMicroseconds),
  }).finish();
}

function decodeEndedCopy(body: Uint8Array): EndedCopyRow {
  const message = wire.EndedCopyRow.decode(body);
  return {
    ...message,
    number: exact(message.number),
    source: extentFromWire(message.source),
    destination: extentFromWire(message.destination),
    createdMs: exact(message.createdMs),
    pointMs: exact(message.pointMs),
    endedMs: exact(message.endedMs),
    generation: exact(message.generation),
    plannedGranules: exact(message.plannedGranules),
    pendingGranules: exact(message.pendingGranules),
    changedGranules: exact(message.changedGranules),
    totalGranules: exact(message.totalGranules),
    bytesPlanned: exact(message.bytesPlanned),
    bytesCopied: exact(message.bytesCopied),
    bytesZeroed: exact(message.bytesZeroed),
    bytesCloned: exact(message.bytesCloned),
    barrierMicroseconds: exact(message.barrierMicroseconds),
  };
}

export const TABLES: { readonly [T in TableName]: Table<T> } = {
  box: {
    keyOf: () => "box",
    encode: (row) => wire.BoxRow.encode({ ...row, createdMs: BigInt(row.createdMs) }).finish(),
    decode(body) {
      const message = wire.BoxRow.decode(body);
      return { ...message, createdMs: exact(message.createdMs) };
    },
  },
  volumes: {
    keyOf: (row) => row.uid,
    encode: (row) =>
      wire.VolumeRow.encode({
        ...row,
        sizeBytes: BigInt(row.sizeBytes),
        createdMs: BigInt(row.createdMs),
        resizingToBytes: BigInt(row.resizingToBytes),
      }).finish(),
    decode: decodeVolume,
  },
  exports: {
    keyOf: (row) => row.name,
    encode: (row) =>
      wire.ExportRow.encode({
        ...row,
        createdMs: BigInt(row.createdMs),
        sizeBytes: BigInt(row.sizeBytes),
      }).finish(),
    decode(body) {
      const message = wire.ExportRow.decode(body);
      return { ...message, createdMs: exact(message.createdMs), sizeBytes: exact(message.sizeBytes) };
    },
  },
  copies: { keyOf: (row) => row.number, encode: encodeCopy, decode: decodeCopy },
  "ended-copies": { keyOf: (row) => row.number, encode: encodeEndedCopy, decode: decodeEndedCopy },
  events: {
    keyOf: (row) => row.id,
    encode: (row) =>
      wire.EventRow.encode({
        ...row,
        id: BigInt(row.id),
        timeMs: BigInt(row.timeMs),
        attributes: { ...row.attributes },
      }).finish(),
    decode(body) {
      const message = wire.EventRow.decode(body);
      return {
        ...message,
        id: exact(message.id),
        timeMs: exact(message.timeMs),
      };
    },
  },
  requests: {
    keyOf: (row) => row.id,
    encode: (row) =>
      wire.RequestRow.encode({
        ...row,
        requestDigest: Buffer.from(row.requestDigest),
        response: Buffer.from(row.response),
        answeredMs: BigInt(row.answeredMs),
      }).finish(),
    decode(body) {
      const message = wire.RequestRow.decode(body);
      return { ...message, answeredMs: exact(message.answeredMs) };
    },
  },
  intents: { keyOf: (row) => row.id, encode: encodeIntent, decode: decodeIntent },
  counters: {
    keyOf: (row) => row.name,
    encode: (row) => wire.CounterRow.encode({ ...row, value: BigInt(row.value) }).finish(),
    decode(body) {
      const message = wire.CounterRow.decode(body);
      return { ...message, value: exact(message.value) };
    },
  },
};
