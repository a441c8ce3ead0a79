/**
 * Rows of the store: what the box remembers beside the engine's own files, as plain values.
 *
 * Role: types only. Times are milliseconds since 1970, sizes and offsets are bytes, all exact in a double.
 * The engine's session files are the authority on live sessions; their rows only say which there have to be. Beside them
 * the store holds names, policy and history.
 */

export interface BoxRow {
  readonly number: number;
  readonly uid: string;
  readonly createdMs: number;
}

/**
 * `creating` and `deleting` are intents: they are written before a file is made or removed, and a box that finds one
 * at start finishes or undoes it.
 */
export type VolumeRowState = "registered" | "creating" | "deleting";

export interface VolumeRow {
  readonly uid: string;
  readonly lu: number;
  /** Empty if none. */
  readonly label: string;
  readonly path: string;
  readonly sizeBytes: number;
  readonly backing: "file" | "block";
  readonly createdByBox: boolean;
  readonly createdMs: number;
  readonly state: VolumeRowState;
  /** Size that a shrinking resize is about to reach; 0 when none is under way. */
  readonly resizingToBytes: number;
}

export interface ExportRow {
  readonly name: string;
  readonly volumeUid: string;
  /** 0 for the whole volume. */
  readonly partition: number;
  readonly readOnly: boolean;
  readonly createdMs: number;
  readonly sizeBytes: number;
}

export interface ExtentRow {
  readonly volumeUid: string;
  readonly name: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A session that exists, as of the last change of its phase that was recorded. */
export interface CopyRow {
  readonly number: number;
  readonly source: ExtentRow;
  readonly destination: ExtentRow;
  readonly kind: string;
  readonly createdMs: number;
  readonly pointMs: number;
  readonly generation: number;
  readonly phase: string;
}

export interface EndedCopyRow {
  readonly number: number;
  readonly source: ExtentRow;
  readonly destination: ExtentRow;
  readonly kind: string;
  readonly phase: string;
  readonly pace: number;
  readonly createdMs: number;
  readonly pointMs: number;
  readonly endedMs: number;
  readonly reason: string;
  readonly generation: number;
  readonly plannedGranules: number;
  readonly pendingGranules: number;
  readonly changedGranules: number;
  readonly totalGranules: number;
  readonly bytesPlanned: number;
  readonly bytesCopied: number;
  readonly bytesZeroed: number;
  readonly bytesCloned: number;
  readonly barrierMicroseconds: number;
  /** Empty when it did not fail. */
  readonly failureCause: string;
  readonly failureMessage: string;
  readonly destinationUsable: boolean;
}

export interface EventRow {
  readonly id: number;
  readonly timeMs: number;
  readonly type: string;
  readonly subject: string;
  readonly message: string;
  readonly attributes: Readonly<Record<string, string>>;
}

export interface RequestRow {
  readonly id: string;
  readonly method: string;
  /** SHA-256 of the request. */
  readonly requestDigest: Uint8Array;
  /** Encoded response. */
  readonly response: Uint8Array;
  readonly answeredMs: number;
}

export type IntentAction = "fire" | "cancel" | "stop-tracking" | "delete-volume";

export interface IntentTargetRow {
  /** Number for a new session; 0 when none may be made. */
  readonly newNumber: number;
  /** Session that exists, and its generation and point before; 0 if none. */
  readonly number: number;
  readonly generation: number;
  readonly pointMs: number;
}

/** What a request is about to do: written before it acts, removed with its answer. */
export interface IntentRow {
  readonly id: string;
  readonly method: string;
  readonly requestDigest: Uint8Array;
  readonly begunMs: number;
  readonly action: IntentAction;
  /** In the order of the answer. */
  readonly targets: readonly IntentTargetRow[];
  /** Empty if no volume is concerned. */
  readonly volumeUid: string;
  /** A start has found that it was done; the answer is still to be given. */
  readonly done: boolean;
  /** Numbers of the sessions of the answer, once it is done. */
  readonly sessions: readonly number[];
}

export interface CounterRow {
  readonly name: string;
  /** Last number that may have been given out. */
  readonly value: number;
}

/** Tables by name, with the row each holds. */
export interface Rows {
  readonly box: BoxRow;
  readonly volumes: VolumeRow;
  readonly exports: ExportRow;
  readonly copies: CopyRow;
  readonly "ended-copies": EndedCopyRow;
  readonly events: EventRow;
  readonly requests: RequestRow;
  readonly intents: IntentRow;
  readonly counters: CounterRow;
}

export type TableName = keyof Rows;
/** Tables whose keys are numbers; all others have text. */
export type NumberedTable = "copies" | "ended-copies" | "events";
export type KeyOf<T extends TableName> = T extends NumberedTable ? number : string;
