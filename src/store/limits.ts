/** Bounds of the store; the product's own are in base/limits.ts. */
import { assert } from "../base/assert.ts";
import { ENDED_COPIES_MAX, EVENTS_MAX, PAGE_SIZE_MAX, SESSIONS_PER_POINT_MAX } from "../base/limits.ts";

/** One page of a list. */
export const LIST_ROWS_MAX = 1000;
/** One commit: the events and rows of the largest point, with the old rows they push out. */
export const COMMIT_CHANGES_MAX = 4096;
/** Commits waiting for the one under way: one for each call that the engine takes at once, and its events. */
export const COMMITS_WAITING_MAX = 16_384;
/** A value: the answer to the largest point. */
export const VALUE_BYTES_MAX = 4 * 1024 * 1024;

assert(LIST_ROWS_MAX >= PAGE_SIZE_MAX, "a page of the API is one page of the store");
assert(COMMIT_CHANGES_MAX > 4 * SESSIONS_PER_POINT_MAX, "a point fits into one commit");
assert(EVENTS_MAX > COMMIT_CHANGES_MAX && ENDED_COPIES_MAX > SESSIONS_PER_POINT_MAX, "a commit does not empty a table");
