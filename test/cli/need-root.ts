/** Tests that make block devices or mounts need root. */
import type { ExecutionContext } from "ava";

/** True for root; otherwise the test says that it is skipped and is to return at once. */
export function needRoot(t: ExecutionContext): boolean {
  if (process.getuid?.() === 0) return true;
  if (process.env["CI"]) t.fail("needs root (FUSE, loop devices, mounts)");
  else {
    t.log("skipped: needs root (FUSE, loop devices, mounts)");
    t.pass();
  }
  return false;
}
