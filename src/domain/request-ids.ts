/**
 * Request ids: a client that did not hear the answer repeats the request and gets the first answer.
 *
 * Rules: the answer is stored in the commit that makes the change, so one is never there without the other; the same id
 * with another method or another request is REQUEST_ID_REUSED; a repetition that comes while the first is under way
 * waits for it; failures are not remembered, the next try is a new one. Answers are kept for REQUEST_ID_KEPT_MS, the
 * newest REQUEST_IDS_MAX of them.
 */
import { createHash } from "node:crypto";
import { TidemarkError } from "../base/errors.ts";
import { REQUEST_ID_KEPT_MS, REQUEST_ID_LENGTH_MAX, REQUEST_IDS_MAX } from "../base/limits.ts";
import type { Clock } from "../base/ports.ts";
import type { Change, Store } from "../store/store.ts";
import { REQUESTS_DROPPED_AT_ONCE } from "./limits.ts";

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

export class RequestIds {
  readonly #store: Store;
  readonly #clock: Clock;
  /** Id to the time of its answer, oldest first. */
  readonly #answered = new Map<string, number>();
  readonly #underWay = new Map<string, UnderWay>();

  constructor(store: Store, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  async load(): Promise<void> {
    const rows: { id: string; answeredMs: number }[] = [];
    for await (const { id, answeredMs } of this.#store.scan("requests")) rows.push({ id, answeredMs });
    rows.sort((a, b) => a.answeredMs - b.answeredMs);
    for (const { id, answeredMs } of rows) this.#answered.set(id, answeredMs);
  }

  /**
   * The answer to a request: `execute` gives it, unless it was given before. `execute` hands its answer to the function
   * it gets and commits the changes that come back together with its own.
   */
  async once(request: IdentifiedRequest, execute: (store: StoreAnswer) => Promise<Uint8Array>): Promise<Uint8Array> {
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
    } finally {
      this.#underWay.delete(request.id);
    }
  }

  async #answer(
    request: IdentifiedRequest,
    digest: Buffer,
    execute: (store: StoreAnswer) => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    const answeredMs = this.#answered.get(request.id);
    if (answeredMs !== undefined && answeredMs + REQUEST_ID_KEPT_MS > this.#clock.nowMs()) {
      const row = await this.#store.get("requests", request.id);
      if (row !== undefined) {
        refuseReuse(request, digest, { method: row.method, digest: row.requestDigest });
        return row.response;
      }
    }
    return execute((response) => this.#remember(request, digest, response));
  }

  #remember({ id, method }: IdentifiedRequest, requestDigest: Buffer, response: Uint8Array): readonly Change[] {
    const answeredMs = this.#clock.nowMs();
    this.#answered.delete(id);
    this.#answered.set(id, answeredMs);
    const changes: Change[] = [{ table: "requests", put: { id, method, requestDigest, response, answeredMs } }];
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
