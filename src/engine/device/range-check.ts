/** Checks that every device makes on entry. */
import { assert } from "../../base/assert.ts";

/** The caller has checked its range; this stops the program when it has not. */
export function assertRange(sizeBytes: number, offsetBytes: number, lengthBytes: number): void {
  if (offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= sizeBytes) return;
  assert(false, `bytes [${offsetBytes}, +${lengthBytes}) lie inside a device of ${sizeBytes} bytes`);
}
