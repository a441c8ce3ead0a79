/**
 * Request ids: a client that did not hear the answer repeats the request and gets the first answer.
 *
 * Rules: the answer is stored in the commit that makes the change, so one is never there without the other; the same id
 * with another method or another request is REQUEST_ID_REUSED; a repetition that comes while the first is under way
 * waits for it; failures are not remembered, the next try is a new one. What was done, but not answered before the daemon
 * died, is found by its intent (intents.ts). Answers are kept for REQUEST_ID_KEPT_MS, the newest REQUEST_IDS_MAX of them.
 */
import { createHash } from "node:crypto";
import { TidemarkError } from "../base/errors.ts";
import { REQUEST_ID_KEPT_MS, REQUEST_ID_LENGTH_MAX, REQUEST_IDS_MAX } from "../base/limits.ts";
import type { Clock } from "../base/ports.ts";
import type { RequestRow } from "../store/rows.ts";
import type { Change, Store } from "../store/store.ts";
import type { Intent, Intents } from "./intents.ts";
import { REQUESTS_DROPPED_AT_ONCE, UNSTORED_ANSWERS_MAX } from "./limits.ts";

export interface IdentifiedRequest {
  readonly id: string;
  /** Full name of the method. */
  readonly method: string;
  /** The request, encoded; the same request always gives the same bytes. */
  readonly bytes: Uint8Array;
}

/** Turns the encoded answer into the change that stores it. */
export type StoreAnswer = (response: Uint8Array) => readonly Change[];

interface UnderWay {
  readonly method: string;
  readonly digest: Buffer;
  readonly response: Promise<Uint8Array>;
}

/** Runs the operation; hands its answer to `store` and commits what comes back together with its own changes. */
export type Execute = (store: StoreAnswer, intent: Intent) => Promise<Uint8Array>;

export class RequestIds {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #intents: Intents;
  /** True when every answer given to a commit is in the store. */
  readonly #isSettled: () => boolean;
  /** Id to the time of its answer, oldest first. */
  readonly #answered = new Map<string, number>();
  readonly #underWay = new Map<string, UnderWay>();
  /** Answers that wait to be stored. */
  readonly #unstored = new Map<string, RequestRow>();

  constructor(store: Store, clock: Clock, intents: Intents, isSettled: () => boolean) {
    this.#store = store;
    this.#clock = clock;
    this.#intents = intents;
    this.#isSettled = isSettled;
  }

  async load(): Promise<void> {
    const rows: { id: string; answeredMs: number }[] = [];
    for await (const { id, answeredMs } of this.#store.scan("requests")) rows.push({ id, answeredMs });
    rows.sort((a, b) => a.answeredMs - b.answeredMs);
    for (const { id, answeredMs } of rows) this.#answered.set(id, answeredMs);
  }

  /** The answer to a request: `execute` gives it, unless it was given before. REQUEST_ID_REUSED, INVALID_ARGUMENT. */
  async once(request: IdentifiedRequest, execute: Execute): Promise<Uint8Array> {
    if (request.id.length > REQUEST_ID_LENGTH_MAX)
      throw new TidemarkError("INVALID_ARGUMENT", {
        message: `the request id has ${request.id.length} characters`,
        hint: `use at most ${REQUEST_ID_LENGTH_MAX}, such as a UUID`,
        field: "request_id",
      });
    const digest = createHash("sha256").update(request.bytes).digest();
    const other = this.#underWay.get(request.id);
    if (other !== undefined) {
      refuseReuse(request, digest, other);
      return other.response;
    }
    const response = this.#answer(request, digest, execute);
    this.#underWay.set(request.id, { method: request.method, digest, response });
    try {
      return await response;
    } catch (error) {
      this.#unstored.delete(request.id);
      throw error;
    } finally {
      this.#underWay.delete(request.id);
      if (this.#isSettled())
        for (const id of this.#unstored.keys()) if (!this.#underWay.has(id)) this.#unstored.delete(id);
    }
  }

  async #answer(request: IdentifiedRequest, digest: Buffer, execute: Execute): Promise<Uint8Array> {
    const answeredMs = this.#answered.get(request.id);
    if (answeredMs !== undefined && answeredMs + REQUEST_ID_KEPT_MS > this.#clock.nowMs()) {
      const row = this.#unstored.get(request.id) ?? (await this.#store.get("requests", request.id));
      if (row !== undefined) {
        refuseReuse(request, digest, { method: row.method, digest: row.requestDigest });
        return row.response;
      }
    }
    const { id, method } = request;
    const intent = this.#intents.of({ id, method, digest });
    const { earlier } = intent;
    if (earlier !== undefined) refuseReuse(request, digest, { method: earlier.method, digest: earlier.requestDigest });
    return execute((response) => this.#remember(request, digest, response), intent);
  }

  #remember({ id, method }: IdentifiedRequest, requestDigest: Buffer, response: Uint8Array): readonly Change[] {
    const answeredMs = this.#clock.nowMs();
    this.#answered.delete(id);
    this.#answered.set(id, answeredMs);
    const row: RequestRow = { id, method, requestDigest, response, answeredMs };
    if (this.#unstored.size < UNSTORED_ANSWERS_MAX) this.#unstored.set(id, row);
    const changes: Change[] = [{ table: "requests", put: row }, ...this.#intents.remove(id)];
    for (const [old, oldMs] of this.#answered) {
      const surplus = this.#answered.size > REQUEST_IDS_MAX;
      if (changes.length > REQUESTS_DROPPED_AT_ONCE || old === id) break;
      if (!surplus && oldMs + REQUEST_ID_KEPT_MS > answeredMs) break;
      this.#answered.delete(old);
      changes.push({ table: "requests", remove: old });
    }
    return changes;
  }
}

function refuseReuse(
  request: IdentifiedRequest,
  digest: Uint8Array,
  first: { readonly method: string; readonly digest: Uint8Array },
): void {
  if (first.method === request.method && Buffer.compare(first.digest, digest) === 0) return;
  throw new TidemarkError("REQUEST_ID_REUSED", {
    message: `the request id ${JSON.stringify(request.id)} was used for another request (${first.method})`,
    hint: "take a new id for each request; repeat an id only with exactly the same request",
    field: "request_id",
  });
}
