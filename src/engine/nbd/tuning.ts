/**
 * Inner sizes of the NBD front door, each with its reason. What a user can notice is in base/limits.ts.
 */
import { assert } from "../../base/assert.ts";
import { NBD_OPTION_BYTES_MAX, NBD_REQUEST_BYTES_MAX } from "../../base/limits.ts";
import { KiB, MiB } from "../../base/units.ts";
import { DATA_CHUNK_HEADER_BYTES, REQUEST_BYTES } from "./protocol.ts";

/** Room for requests of one connection. One socket read brings at most what the kernel's socket buffer holds. */
export const INBOX_BYTES = 512 * KiB;
/** A read from the socket is at most this long, so that unparsed bytes and one more read always fit into the inbox. */
export const SOCKET_READ_BYTES_MAX = 256 * KiB;
/** A write payload above this is received straight into a buffer of its own instead of the inbox. */
export const INBOX_PAYLOAD_BYTES_MAX = 64 * KiB;
/** Replies of a batch are collected up to this size; a batch of 32 requests of 4 KiB is one write. */
export const ARENA_BYTES = 544 * KiB;
/** Structured reads are answered in chunks of this size, measured best of 64 KiB to 1 MiB. */
export const READ_PIECE_BYTES = 512 * KiB;
/** Replies built off the batch are copied into the arena up to this size, to share one write; above it they go alone. */
export const COPIED_REPLY_BYTES_MAX = 16 * KiB;
/** Replies the client has not taken: above this no further request of the connection is looked at. */
export const OUTPUT_QUEUE_BYTES_MAX = 2 * MiB;
/** Work done for one connection before the others get their turn. */
export const TURN_REQUESTS_MAX = 512;
export const TURN_BYTES_MAX = 4 * MiB;
/** A refused write of up to this size is read and thrown away; a longer one ends the connection. */
export const DISCARD_BYTES_MAX = 2 * NBD_REQUEST_BYTES_MAX;
/** Extents in one answer about one context: 8 KiB of reply. */
export const STATUS_EXTENTS_MAX = 1024;
/** Contexts one client may select, and queries it may send in one option. */
export const CONTEXTS_MAX = 128;
export const CONTEXT_QUERIES_MAX = 1024;
/** Unused buffers kept for the next large request, of all connections together. */
export const POOL_KEPT_BYTES_MAX = 64 * MiB;
/** Arenas kept for the next reply batch, of all connections together. */
export const POOL_KEPT_ARENAS_MAX = 32;
/** Views remembered per buffer, so that a steady load makes no garbage. */
export const VIEWS_KEPT_MAX = 1024;

assert(
  REQUEST_BYTES + INBOX_PAYLOAD_BYTES_MAX + SOCKET_READ_BYTES_MAX < INBOX_BYTES,
  "inbox holds a request and a read",
);
assert(NBD_OPTION_BYTES_MAX + SOCKET_READ_BYTES_MAX + 1024 < INBOX_BYTES, "inbox holds an option and a read");
assert(READ_PIECE_BYTES + DATA_CHUNK_HEADER_BYTES <= ARENA_BYTES, "arena holds a piece");
