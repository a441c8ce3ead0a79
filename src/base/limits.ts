/** Every bound of the product, each with its reason; their relations are asserted when the file loads. */
import { assert } from "./assert.ts";
import { GiB, GRANULE_SIZE_BYTES, KiB, MiB, SECTOR_SIZE_BYTES, TiB } from "./units.ts";

/** A map of the largest volume has 2^33 bits: still exact in a double, and 1 GiB when every page is mixed. */
export const VOLUME_SIZE_BYTES_MAX = 64 * TiB;
export const VOLUME_SIZE_BYTES_MIN = SECTOR_SIZE_BYTES;
/** Numbers in `g<box>d<lu>p<partition>`; four digits keep names and tables readable. */
export const BOX_NUMBER_MAX = 9999;
export const LU_NUMBER_MAX = 99_999;
export const PARTITION_NUMBER_MAX = 128;
/** Labels are names: they appear in URIs, tables and file names. */
export const LABEL_LENGTH_MAX = 64;
export const PATH_LENGTH_MAX = 4095;
export const VOLUMES_MAX = 4096;
export const SESSIONS_MAX = 4096;
export const EXPORTS_MAX = 4096;
/** Sessions that enter or leave one volume: its superblock names the epochs they hold. */
export const SESSIONS_PER_VOLUME_MAX = 64;
/** One point may fire this many sessions: each adds a line to one record that must be durable within the barrier. */
export const SESSIONS_PER_POINT_MAX = 256;
/** A barrier that cannot drain in this time fires nothing (data-safety: "timeout, none fired"). */
export const BARRIER_TIMEOUT_MS = 10_000;
/**
 * Copier: a job moves no more than this under one lock. A host or a point that waits for it ends it early, so it may be
 * large enough that handing out jobs costs nothing (with 4 MiB it was half of the time: docs/performance.md).
 */
export const COPY_JOB_BYTES_MAX = 32 * MiB;
/** Copier: a job of a paced session, whose bursts are to be short, and of one that has to ask upstream first. */
export const COPY_JOB_BYTES_SMALL = 4 * MiB;
/** Copier: what is moved between two looks at whether a job is to end early. */
export const COPY_PIECE_BYTES = 1 * MiB;
/** Copier: a job may span this much when most of it is holes or shared extents. */
export const COPY_JOB_SPAN_BYTES_MAX = 1 * GiB;
export const COPY_JOB_RUNS_MAX = 256;
export const COPIER_WORKERS = 2;
/** Device: asynchronous operations of one device at work at once, so that a stalled one cannot take the whole thread pool. */
export const DEVICE_OPERATIONS_MAX = 8;
/** Device: opening, closing and resizing take milliseconds; what takes longer than this is a device that stalls. */
export const DEVICE_STEP_TIMEOUT_MS = 10_000;
/**
 * Device: such steps at once, and those of stalled devices that never end; and looks at paths that requests name. Together
 * they leave threads of the pool (32) for what has to go on.
 */
export const DEVICE_STEPS_MAX = 8;
export const DEVICE_STEPS_LATE_MAX = 12;
export const PATH_LOOKS_MAX = 4;
export const PATH_LOOKS_LATE_MAX = 4;
/** Device: operations waiting behind them; each belongs to a request that is bounded further up. */
export const DEVICE_QUEUE_MAX = 16_384;
/** Device: larger requests leave the caller's thread even when they are cached (1 MiB takes about 130 us inline). */
export const DEVICE_INLINE_BYTES_MAX = 1 * MiB;
/**
 * Device: two writes longer than the first (a busy machine's scheduler takes about half of that) or one longer than the
 * second (the kernel's longest pause for a writer) make it slow; then nothing is written inline ...
 */
export const DEVICE_SLOW_MS = 50;
export const DEVICE_STALLED_MS = 200;
/** ... for this long, doubled at each further slow write up to the maximum. */
export const DEVICE_SLOW_PAUSE_MS = 1000;
export const DEVICE_SLOW_PAUSE_MS_MAX = 60_000;
/** Device: zeroing, trimming and sharing of large ranges go in pieces, so that others get their turn. */
export const DEVICE_RANGE_PIECE_BYTES = 1 * GiB;
/** Copier: lanes a session, so that one job is moved while the next is chosen. */
export const COPIER_LANES = 2;
/** Copier: jobs that wait for a worker: all lanes of all sessions, and as many that hosts wait for. */
export const COPIER_QUEUE_MAX = 16_384;
/** Copier: workers at most when others are stuck in a stalled device ... */
export const COPIER_WORKERS_MAX = 8;
/** How long the end of a copier worker is waited for when the engine stops. */
export const COPIER_DISMISS_MS = 3000;
/** ... which is assumed when every worker has been busy with one job for this long. */
export const COPIER_STUCK_MS = 1000;
/** Copier: a job that shares extents ends early after this time, because sharing waits for the source's writeback. */
export const COPY_JOB_CLONE_MS_MAX = 100;
/** Activity log: regions of 4 MiB, this many hot at once (measured: docs/performance.md). */
export const ACTIVITY_REGION_BYTES = 4 * MiB;
export const ACTIVITY_SLOTS = 1024;
/** Writes that wait for a cold region: one for each request that NBD lets in. */
export const ACTIVITY_WAITERS_MAX = 262_144;
/** Beyond this size an activity log is worth a checkpoint: replaying it takes some tenths of a second. */
export const ACTIVITY_LOG_CHECKPOINT_BYTES = 16 * MiB;
/** Maps of one point beyond this go into files of their own, so that its record fits into a frame. */
export const POINT_MAPS_BYTES_MAX = 16 * MiB;
/** State logs: one frame, and what may wait to be written; a map that needs more goes into a file of its own. */
export const STATE_LOG_FRAME_BYTES_MAX = 64 * MiB;
export const STATE_LOG_QUEUE_BYTES_MAX = 128 * MiB;
export const STATE_LOG_QUEUE_FRAMES_MAX = 262_144;
/** Owner ids (volume uid, session id) in the headers of state files. */
export const STATE_OWNER_BYTES_MAX = 64;
/**
 * A stop: each of its steps has its time, so that a stalled device cannot hold up the others. What is not durable then is
 * recovered by the next start as after a kill, for the volumes concerned. Calls of the API ...
 */
export const STOP_CALLS_MS = 5000;
/** ... requests of NBD clients, answered and then cut off ... */
export const STOP_CLIENTS_MS = 2000;
export const STOP_CLIENTS_CUT_MS = 1000;
/** ... pieces of copies that are under way, and what follows from copies that have ended ... */
export const STOP_COPYING_MS = 3000;
export const STOP_BACKGROUND_MS = 1000;
/** ... syncs of the devices, maps and logs: the step that a slow but healthy disk needs time for ... */
export const STOP_DURABLE_MS = 9000;
export const STOP_CLOSE_MS = 3000;
export const STOP_COPIERS_MS = COPIER_DISMISS_MS;
/** ... and the engine's thread. */
export const STOP_THREAD_MS = 1000;
/** All together: then the process ends, whatever there is. */
export const STOP_MS_MAX = 30_000;
/** Findings of one check: more says no more than that the disk is gone. */
export const CHECK_FINDINGS_MAX = 10_000;
/** Scrub: bytes a second at most, so that a disk hardly notices it ... */
export const SCRUB_BYTES_PER_SECOND = 8 * MiB;
/** ... and how often, from how long after the start on, it goes by itself. */
export const SCRUB_INTERVAL_MS = 7 * 24 * 3600 * 1000;
export const SCRUB_FIRST_MS = 3600 * 1000;
/** Scrubs at once; they share the rate. */
export const SCRUBS_MAX = 4;
/**
 * Snap data volume: granules that one holds at most (128 GiB). Its index takes up to 32 bytes of memory for each, so this is
 * 512 MiB.
 */
export const SNAP_LIVE_GRANULES_MAX = 16 * 1024 * 1024;
/** Snap data volume: granules of one append, and of all that wait to be stored (128 MiB of data). */
export const SNAP_APPEND_GRANULES_MAX = 512;
export const SNAP_QUEUE_GRANULES_MAX = 16_384;
/** Generations of one chain; every one of them takes a place among the sessions of its source. */
export const SNAP_GENERATIONS_MAX = SESSIONS_PER_VOLUME_MAX;
export const PACE_MIN = 1;
export const PACE_MAX = 15;
/** NBD: the largest request and option that are read; more is answered with an error (NBD protocol, "size limits"). */
export const NBD_REQUEST_BYTES_MAX = 32 * MiB;
export const NBD_OPTION_BYTES_MAX = 64 * KiB;
export const NBD_CONNECTIONS_MAX = 256;
export const NBD_HANDSHAKE_TIMEOUT_MS = 10_000;
/** Per connection: reading pauses above this much unanswered data. */
export const NBD_IN_FLIGHT_BYTES_MAX = 64 * MiB;
export const NBD_IN_FLIGHT_REQUESTS_MAX = 1024;
/** All connections together, beside a small share of each: four that use all they may, in half of the daemon's 512 MiB. */
export const NBD_IN_FLIGHT_TOTAL_BYTES_MAX = 256 * MiB;
/** A client that holds such memory, and for so long neither reads nor sends while others wait for it, is hung up on. */
export const NBD_MEMORY_STALL_MS = 30_000;
/** gRPC: one message; volume data is streamed in pieces below it. */
export const RPC_MESSAGE_BYTES_MAX = 4 * MiB;
export const RPC_CHUNK_BYTES = 1 * MiB;
export const PAGE_SIZE_DEFAULT = 100;
export const PAGE_SIZE_MAX = 1000;
export const REQUEST_ID_LENGTH_MAX = 64;
/** A repeated request is recognised for this long. */
export const REQUEST_ID_KEPT_MS = 24 * 3600 * 1000;
export const REQUEST_IDS_MAX = 10_000;
/** Ended copies and events kept for `copy list --all` and `events`. */
export const ENDED_COPIES_MAX = 1000;
export const EVENTS_MAX = 10_000;
export const WATCHERS_MAX = 256;
/** A watch says something at least this often, so that silence means trouble (user-asks #6). */
export const WATCH_BEAT_MS = 5000;
/** WebAssembly memory of one thread: maps of the largest volume plus working space would exceed it only when fully mixed. */
export const CORE_MEMORY_PAGES_MAX = 32_768;

assert(VOLUME_SIZE_BYTES_MAX / GRANULE_SIZE_BYTES < 2 ** 53, "granule indexes are exact");
assert(COPY_JOB_BYTES_MAX % GRANULE_SIZE_BYTES === 0, "a job ends on a granule");
assert(COPY_JOB_BYTES_SMALL % GRANULE_SIZE_BYTES === 0, "a small job ends on a granule");
assert(SESSIONS_MAX * COPIER_LANES < COPIER_QUEUE_MAX, "every lane may wait, and hosts as well");
assert(ACTIVITY_REGION_BYTES % GRANULE_SIZE_BYTES === 0, "a region is whole granules");
assert(
  STOP_CALLS_MS + STOP_CLIENTS_MS + STOP_CLIENTS_CUT_MS + STOP_COPYING_MS + STOP_BACKGROUND_MS + STOP_DURABLE_MS <=
    STOP_MS_MAX - STOP_CLOSE_MS - STOP_COPIERS_MS - STOP_THREAD_MS,
  "the steps of a stop have their time",
);
assert(SNAP_APPEND_GRANULES_MAX <= SNAP_QUEUE_GRANULES_MAX, "the largest append may wait");
assert(STATE_LOG_FRAME_BYTES_MAX < STATE_LOG_QUEUE_BYTES_MAX, "the largest frame may wait");
assert(ACTIVITY_WAITERS_MAX >= NBD_CONNECTIONS_MAX * NBD_IN_FLIGHT_REQUESTS_MAX, "every NBD request may wait");
assert(RPC_CHUNK_BYTES < RPC_MESSAGE_BYTES_MAX, "a chunk fits into a message");
