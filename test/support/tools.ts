/**
 * Programs that a test with real clients needs.
 *
 * A missing one makes the test say `skipped: why` and pass over its work; where CI is set it is a failure, because
 * there everything is installed and a skipped test proves nothing.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import type { ExecutionContext } from "ava";

/** Package of Debian and Ubuntu that brings each program. */
const PACKAGES: Readonly<Record<string, string>> = {
  nbdinfo: "libnbd-bin",
  nbdcopy: "libnbd-bin",
  nbdfuse: "libnbd-bin",
  nbdsh: "python3-libnbd",
  "qemu-img": "qemu-utils",
  "qemu-io": "qemu-utils",
  "qemu-nbd": "qemu-utils",
  nbdkit: "nbdkit",
  fio: "fio",
  fusermount3: "fuse3",
  losetup: "mount",
  sfdisk: "fdisk",
  sgdisk: "gdisk",
  "mkfs.xfs": "xfsprogs",
  "mkfs.btrfs": "btrfs-progs",
  "mkfs.ext4": "e2fsprogs",
  e2fsck: "e2fsprogs",
  rsync: "rsync",
  python3: "python3",
};

/** Where the system keeps programs that are not in every user's path. */
const SYSTEM_DIRECTORIES = ["/usr/sbin", "/sbin"];

export function hasTool(name: string): boolean {
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), ...SYSTEM_DIRECTORIES];
  return directories.some((directory) => isExecutable(join(directory, name)));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** True when all programs are there; otherwise the test is to return at once. */
export function needTools(t: ExecutionContext, names: readonly string[]): boolean {
  return need(
    t,
    names
      .filter((name) => !hasTool(name))
      .map((name) => `${name} is not installed (apt package ${PACKAGES[name] ?? name})`),
  );
}

/** The system's Python, for which distributions package libnbd; another one may come first in the path. */
export const SYSTEM_PYTHON = "/usr/bin/python3";

/** True when the system's Python has the module. */
export function needPythonModule(t: ExecutionContext, module: string, aptPackage: string): boolean {
  const found = spawnSync(SYSTEM_PYTHON, ["-c", `import ${module}`]).status === 0;
  return need(t, found ? [] : [`${SYSTEM_PYTHON} has no module ${module} (apt package ${aptPackage})`]);
}

/** True when the device or file can be opened; `why` says who needs it. */
export function needPath(t: ExecutionContext, path: string, why: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return need(t, [`${path} is not accessible, ${why}`]);
  }
}

function need(t: ExecutionContext, missing: readonly string[]): boolean {
  if (missing.length === 0) return true;
  const reason = missing.join("; ");
  if (process.env["CI"]) t.fail(reason);
  else {
    t.log(`skipped: ${reason}`);
    t.pass();
  }
  return false;
}
