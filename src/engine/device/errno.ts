/**
 * The one place that turns what the system says (errno) into what Tidemark says (ErrorCode).
 *
 * Role: no I/O. Works on Node's error codes (`"EIO"`) and on the numbers that native calls give.
 */
import { constants } from "node:os";
import { type ErrorCode, type ErrorDetail, TidemarkError } from "../../base/errors.ts";

const NAMES = new Map<number, string>();
for (const [name, value] of Object.entries(constants.errno)) {
  // EWOULDBLOCK and EOPNOTSUPP have twins with the same number; one name of each is enough.
  if (name !== "EWOULDBLOCK" && name !== "ENOTSUP") NAMES.set(value, name);
}

/** Name of an errno number, `"E<number>"` if it has none here. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? LINUX_ONLY.get(errno) ?? `E${errno}`;
}

/** Numbers that Node's table does not have. */
const LINUX_ONLY = new Map<number, string>([
  [108, "ESHUTDOWN"],
  [112, "EHOSTDOWN"],
  [117, "EUCLEAN"],
  [121, "EREMOTEIO"],
  [123, "ENOMEDIUM"],
]);

export const EAGAIN = constants.errno.EAGAIN;
export const EINTR = constants.errno.EINTR;
export const EINVAL = constants.errno.EINVAL;
export const EIO = constants.errno.EIO;
export const ENXIO = constants.errno.ENXIO;
export const EXDEV = constants.errno.EXDEV;
export const EOPNOTSUPP = constants.errno.EOPNOTSUPP;
export const ENOSYS = constants.errno.ENOSYS;
export const ENOTTY = constants.errno.ENOTTY;

/** The call does not exist for this file or file system. */
export function isUnsupported(errno: number): boolean {
  return errno === EOPNOTSUPP || errno === ENOSYS || errno === ENOTTY;
}

const CODES: Readonly<Record<string, ErrorCode>> = {
  EIO: "MEDIUM_ERROR",
  EREMOTEIO: "MEDIUM_ERROR",
  EUCLEAN: "MEDIUM_ERROR",
  EBADMSG: "MEDIUM_ERROR",
  EILSEQ: "MEDIUM_ERROR",
  ENODATA: "MEDIUM_ERROR",
  ETIMEDOUT: "MEDIUM_ERROR",
  ENOSPC: "NO_SPACE",
  EDQUOT: "NO_SPACE",
  EFBIG: "NO_SPACE",
  ENODEV: "DEVICE_GONE",
  ENXIO: "DEVICE_GONE",
  EBADF: "DEVICE_GONE",
  ENOTCONN: "DEVICE_GONE",
  ESHUTDOWN: "DEVICE_GONE",
  EHOSTDOWN: "DEVICE_GONE",
  ENOLINK: "DEVICE_GONE",
  ESTALE: "DEVICE_GONE",
  ENOMEDIUM: "DEVICE_GONE",
  ECONNABORTED: "DEVICE_GONE",
  EROFS: "READ_ONLY",
  EPERM: "READ_ONLY",
  EACCES: "READ_ONLY",
  ENOMEM: "MEMORY_EXHAUSTED",
  EMFILE: "LIMIT_EXCEEDED",
  ENFILE: "LIMIT_EXCEEDED",
};

const HINTS: Partial<Record<ErrorCode, string>> = {
  MEDIUM_ERROR: "check the device and the kernel log (dmesg); replace the medium or restore the range from a copy",
  NO_SPACE: "free space on the file system that holds the volume, then repeat",
  DEVICE_GONE: "bring the device back",
  READ_ONLY: "the file system or device is read-only; make it writable and open the volume again",
  MEMORY_EXHAUSTED: "free memory on this machine, then repeat",
  LIMIT_EXCEEDED: "raise the limit of open files (ulimit -n), then repeat",
};

/** Where an operation failed. */
export interface IoPlace {
  readonly path: string;
  /** What was tried, as in "cannot <action> ...". */
  readonly action: string;
  /** Relative to the device. */
  readonly offsetBytes?: number;
  readonly lengthBytes?: number;
}

/** errno name of a thrown value: Node's `code`, or undefined. */
export function errnoNameOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}

/** Error of an I/O on an open device. */
export function ioError(errno: string, place: IoPlace, options?: ErrorOptions): TidemarkError {
  const code = CODES[errno] ?? "INTERNAL";
  const where = place.offsetBytes === undefined ? "" : ` at byte ${place.offsetBytes}, ${place.lengthBytes ?? 0} bytes`;
  return new TidemarkError(
    code,
    detailOf(code, `cannot ${place.action} ${place.path}${where} (${errno})`, errno, place),
    options,
  );
}

function detailOf(code: ErrorCode, message: string, errno: string, place: IoPlace): ErrorDetail {
  const hint = HINTS[code];
  const metadata: Record<string, string> = { path: place.path, errno };
  if (place.offsetBytes !== undefined) metadata["offsetBytes"] = String(place.offsetBytes);
  if (place.lengthBytes !== undefined) metadata["lengthBytes"] = String(place.lengthBytes);
  return hint === undefined ? { message, metadata } : { message, hint, metadata };
}

/** Anything that Node's fs threw or a callback gave, as an I/O error. */
export function ioErrorOf(error: unknown, place: IoPlace): TidemarkError {
  if (error instanceof TidemarkError) return error;
  return ioError(errnoNameOf(error) ?? "EUNKNOWN", place, { cause: error });
}

const OPEN_ERRORS: Readonly<Record<string, readonly [ErrorCode, string, string]>> = {
  ENOENT: ["PATH_NOT_FOUND", "does not exist", "check the path, or create it with `tidemark volume create`"],
  ENOTDIR: ["PATH_NOT_FOUND", "does not exist: a part of the path is not a directory", "check the path"],
  ELOOP: ["PATH_NOT_USABLE", "has too many symbolic links, or changed while it was opened", "name the file itself"],
  ENAMETOOLONG: ["PATH_NOT_USABLE", "is too long", "use a shorter path"],
  EACCES: ["PERMISSION_DENIED", "may not be opened", "give the user that runs the box access to it"],
  EPERM: ["PERMISSION_DENIED", "may not be opened", "give the user that runs the box access to it"],
  EEXIST: ["PATH_EXISTS", "exists already", "choose another path, or register the file that is there"],
  EISDIR: ["PATH_NOT_USABLE", "is a directory", "name a regular file or a block device"],
  ETXTBSY: ["PATH_HELD", "is being executed or used as swap", "stop its user first"],
  EROFS: ["READ_ONLY", "lies on a read-only file system", "mount it writable"],
};

/** Error of looking up, opening or creating a path. */
export function pathError(error: unknown, path: string): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const errno = errnoNameOf(error) ?? "EUNKNOWN";
  const known = OPEN_ERRORS[errno];
  if (known === undefined) return ioErrorOf(error, { path, action: "open" });
  const [code, what, hint] = known;
  return new TidemarkError(code, { message: `${path} ${what}`, hint, metadata: { path, errno } }, { cause: error });
}
