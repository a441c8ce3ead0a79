// System programs that tests with real clients use, and the Debian package of each.
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const PROGRAMS = {
  "qemu-img": "qemu-utils",
  "qemu-io": "qemu-utils",
  "qemu-nbd": "qemu-utils",
  nbdkit: "nbdkit",
  nbdinfo: "libnbd-bin",
  nbdcopy: "libnbd-bin",
  nbdfuse: "libnbd-bin",
  nbdsh: "python3-libnbd",
  fio: "fio",
  fusermount3: "fuse3",
  rsync: "rsync",
  "mkfs.ext4": "e2fsprogs",
  e2fsck: "e2fsprogs",
  "mkfs.xfs": "xfsprogs",
  xfs_repair: "xfsprogs",
  "mkfs.btrfs": "btrfs-progs",
  sfdisk: "fdisk",
  sgdisk: "gdisk",
  losetup: "mount",
  mount: "mount",
  fsfreeze: "util-linux",
  blockdev: "util-linux",
  python3: "python3",
};

const DIRECTORIES = [
  ...(process.env.PATH ?? "").split(":"),
  "/usr/sbin",
  "/sbin",
  "/usr/local/sbin",
  "/usr/bin",
  "/bin",
];

// Installs what is missing when that is possible, and says what is still missing otherwise. Returns nothing: tests that
// need a program which is not there say so themselves.
export function ensureTestTools() {
  const missing = missingPackages();
  if (missing.length === 0) return;
  if (process.getuid() !== 0 || !isDebian()) {
    console.log(`test: not installed: ${missing.join(" ")}`);
    console.log(`test: tests that need them are skipped; as root: apt-get install ${missing.join(" ")}`);
    return;
  }
  console.log(`test: installing ${missing.join(" ")}`);
  if (!apt(["update", "-q"])) console.log("test: apt-get update failed; going on with the lists that are there");
  const installed = apt(["install", "-q", "-y", "--no-install-recommends", ...missing]);
  const still = missingPackages();
  if (!installed || still.length > 0) console.log(`test: still not installed: ${still.join(" ")}`);
}

function missingPackages() {
  const packages = Object.entries(PROGRAMS).flatMap(([program, name]) => (isInstalled(program) ? [] : [name]));
  if (!hasVenv()) packages.push("python3-venv");
  return [...new Set(packages)];
}

function isInstalled(program) {
  return DIRECTORIES.some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return directory !== "";
    } catch {
      return false;
    }
  });
}

function hasVenv() {
  return spawnSync("python3", ["-c", "import venv, ensurepip"], { stdio: "ignore" }).status === 0;
}

function isDebian() {
  const file = "/etc/os-release";
  return existsSync(file) && /^ID(_LIKE)?=.*\b(debian|ubuntu)\b/m.test(readFileSync(file, "utf8"));
}

function apt(args) {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  return spawnSync("apt-get", args, { stdio: ["ignore", "ignore", "inherit"], env }).status === 0;
}
