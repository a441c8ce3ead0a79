/**
 * Sizes, numbers and times as people write and read them.
 *
 * Sizes follow coreutils: K, M, G, T, P and KiB, MiB, GiB, TiB, PiB are powers of 1024; KB, MB, GB, TB, PB powers of
 * 1000; a plain number is bytes. They are bigint throughout: what is shown may be rounded, what is sent never is.
 */
import { usageError } from "../failure.ts";

const PREFIXES = ["", "K", "M", "G", "T", "P", "E"] as const;
const SIZE = /^(\d{1,20})(?:\.(\d{1,18}))?\s*(?:([KMGTPE])(iB|B)?|B)?$/i;
const UINT64_MAX = 2n ** 64n - 1n;

/** Bytes meant by `4GiB`, `512MiB`, `10G`, `1.5T` or `4096`. Throws a usage error naming `what`. */
export function parseSize(text: string, what = "a size"): bigint {
  const match = SIZE.exec(text.trim());
  const hint = "a whole number of bytes, or a number with K, M, G, T (powers of 1024), such as 4GiB";
  if (match === null) throw usageError(`\`${text}\` is not ${what}`, hint);
  const [, whole = "0", fraction = "", prefix = "", ending = ""] = match;
  const base = ending.toUpperCase() === "B" ? 1000n : 1024n;
  const factor = base ** BigInt(PREFIXES.indexOf(prefix.toUpperCase() as (typeof PREFIXES)[number]));
  const scale = 10n ** BigInt(fraction.length);
  const scaled = BigInt(whole + fraction) * factor;
  if (scaled % scale !== 0n) throw usageError(`\`${text}\` is not a whole number of bytes`, hint);
  const bytes = scaled / scale;
  if (bytes > UINT64_MAX) throw usageError(`\`${text}\` is too large for ${what}`, hint);
  return bytes;
}

/** `4GiB`, `1.5GiB`, `512B`: one decimal at most, never rounded up to the next unit's 1024. */
export function formatSize(bytes: bigint): string {
  let index = 0;
  while (index < PREFIXES.length - 1 && bytes >> BigInt(10 * (index + 1)) > 0n) index++;
  if (index === 0) return `${bytes}B`;
  const unit = 1n << BigInt(10 * index);
  const tenths = (bytes * 10n) / unit;
  const decimal = tenths % 10n;
  return `${tenths / 10n}${decimal === 0n ? "" : `.${decimal}`}${PREFIXES[index]}iB`;
}

/** A size for a detail view: `4GiB (4294967296 bytes)`. */
export function formatSizeExact(bytes: bigint): string {
  return bytes < 1024n ? `${bytes} bytes` : `${formatSize(bytes)} (${bytes} bytes)`;
}

/** Bytes a second as `310MiB/s`. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatSize(BigInt(Math.max(0, Math.round(bytesPerSecond))))}/s`;
}

/** `9s`, `4m05s`, `2h03m`, `3d04h`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h${two((whole % 3600) / 60)}m`;
  return `${Math.floor(whole / 86_400)}d${two((whole % 86_400) / 3600)}h`;
}

const DURATION_UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, "": 1000 };
const DURATION_MS_MAX = 30 * 86_400_000;

/** Milliseconds meant by `30`, `30s`, `500ms`, `5m` or `2h`; a plain number is seconds. Throws a usage error. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)?$/.exec(text.trim());
  const milliseconds = match === null ? 0 : Number(match[1]) * (DURATION_UNITS_MS[match[2] ?? ""] ?? 0);
  if (milliseconds < 1 || milliseconds > DURATION_MS_MAX) {
    throw usageError(`\`${text}\` is not a time`, "seconds, or a number with ms, s, m or h, such as 30s");
  }
  return Math.ceil(milliseconds);
}

/** A whole number between `min` and `max`. Throws a usage error naming `what`. */
export function parseWhole(text: string, range: { what: string; min: number; max: number }): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= range.min && value <= range.max)) {
    throw usageError(`\`${text}\` is not ${range.what}`, `a whole number from ${range.min} to ${range.max}`);
  }
  return value;
}

/** An unsigned 64-bit number such as an epoch. Throws a usage error naming `what`. */
export function parseUint64(text: string, what: string): bigint {
  const value = /^\d{1,20}$/.test(text) ? BigInt(text) : undefined;
  if (value === undefined || value > UINT64_MAX) {
    throw usageError(`\`${text}\` is not ${what}`, "a whole number, 0 or more");
  }
  return value;
}

/** What protobuf's Timestamp holds, in local time: `2026-11-24 10:15:02`. Empty when absent. */
export function formatTime(time: { seconds: bigint; nanos: number } | undefined): string {
  if (time === undefined) return "";
  const date = new Date(Number(time.seconds) * 1000 + Math.floor(time.nanos / 1_000_000));
  if (Number.isNaN(date.getTime())) return "";
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
