/**
 * Messages between the main thread and the engine thread.
 *
 * Role: types and the closed list of methods; both ends check against it. Calls and answers travel in batches, in
 * order: an answer never overtakes an event that happened before it.
 */
import type { ErrorRecord } from "../../base/errors.ts";
import type { EngineApi, EngineEvent } from "../engine-api.ts";

export type EngineMethod = Exclude<keyof EngineApi, "onEvent">;

/** Every method of the engine; a method missing here does not compile, a name not here is refused. */
const METHODS: Readonly<Record<EngineMethod, true>> = {
  start: true,
  stop: true,
  inspectPath: true,
  createFile: true,
  removeFile: true,
  addVolume: true,
  takeBackVolume: true,
  removeVolume: true,
  reopenVolume: true,
  resizeVolume: true,
  volumeStatus: true,
  partitions: true,
  startSessions: true,
  restartSessions: true,
  cancelSession: true,
  stopTracking: true,
  setPace: true,
  sessionStatus: true,
  sessions: true,
  forgetSession: true,
  explain: true,
  scrubTargets: true,
  scrub: true,
  read: true,
  write: true,
  flush: true,
  changedExtents: true,
  allocatedExtents: true,
  listenNbd: true,
  addExport: true,
  removeExport: true,
  exportStatus: true,
};

export const ENGINE_METHODS = Object.keys(METHODS) as readonly EngineMethod[];

export function isEngineMethod(name: string): name is EngineMethod {
  return Object.hasOwn(METHODS, name);
}

export interface EngineCall {
  readonly id: number;
  readonly method: EngineMethod;
  readonly args: readonly unknown[];
}

/** Main thread to engine thread. */
export interface CallBatch {
  readonly calls: readonly EngineCall[];
}

export type EngineMessage =
  | { readonly kind: "answer"; readonly id: number; readonly value: unknown }
  /** `trace`: stack of an error that is not a TidemarkError. */
  | { readonly kind: "refusal"; readonly id: number; readonly error: ErrorRecord; readonly trace: string | undefined }
  | { readonly kind: "event"; readonly event: EngineEvent };

/** Engine thread to main thread. */
export interface MessageBatch {
  readonly messages: readonly EngineMessage[];
}

/** True when the bytes are all of their memory, so that it can move to another thread instead of being copied. */
export function ownsItsMemory(bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer && bytes.byteLength === bytes.buffer.byteLength;
}
