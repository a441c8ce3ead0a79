/** The one rule for the size of anything that backs a volume. */
import { TidemarkError } from "../../base/errors.ts";
import { VOLUME_SIZE_BYTES_MAX, VOLUME_SIZE_BYTES_MIN } from "../../base/limits.ts";
import { SECTOR_SIZE_BYTES } from "../../base/units.ts";

/** SIZE_INVALID if a volume cannot have this size. */
export function sizeProblem(path: string, sizeBytes: number): TidemarkError | undefined {
  const problem = (message: string, hint: string) =>
    new TidemarkError("SIZE_INVALID", { message, hint, metadata: { path, sizeBytes: String(sizeBytes) } });
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < VOLUME_SIZE_BYTES_MIN) {
    return problem(`${path}: ${sizeBytes} bytes are too few for a volume`, "give it at least one sector of 512 bytes");
  }
  if (sizeBytes > VOLUME_SIZE_BYTES_MAX) {
    return problem(`${path}: ${sizeBytes} bytes are more than a volume can have`, "a volume has at most 64 TiB");
  }
  if (sizeBytes % SECTOR_SIZE_BYTES === 0) return undefined;
  return problem(
    `${path}: ${sizeBytes} bytes are not a whole number of 512-byte sectors`,
    `extend the file to whole sectors: truncate -s %512 ${path}`,
  );
}
