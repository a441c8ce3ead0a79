/** Bounds of the domain; the product's own are in base/limits.ts. */

/** Operations that may wait for one volume. */
export const LOCK_WAITERS_MAX = 1024;
/** Expired answers dropped with each new one. */
export const REQUESTS_DROPPED_AT_ONCE = 16;
/** Copies put right in one commit at start: at most two changes and one event each. */
export const CORRECTIONS_AT_ONCE = 256;
/** Answers kept in memory while they cannot be stored: repetitions get them from there. */
export const UNSTORED_ANSWERS_MAX = 1024;
/** Extents asked of the engine, and sent, at once. */
export const EXTENTS_AT_ONCE = 4096;
/** Chunks read ahead of a client, and writes under way for it. */
export const READ_AHEAD_CHUNKS = 4;
export const WRITES_UNDER_WAY = 4;
/** Chunks whose memory is kept for the next ones. */
export const FREE_CHUNKS_MAX = 16;
/** A watcher looks at a running copy this often. */
export const WATCH_PROGRESS_MS = 250;
