// `npm run breaking`: the contract in proto/ against an earlier one that others may rely on.
// Earlier means: BREAKING_AGAINST if set; else where this branch left origin/main; else, on main itself, the state before
// the last commit that changed proto/ (or HEAD, when proto/ has changes that are not committed).
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL("../", import.meta.url)));

const base = process.env.BREAKING_AGAINST || branchPoint() || beforeLastChange();
if (base === undefined) {
  console.log("breaking: there is no earlier commit with proto/ to compare with");
  process.exit(0);
}
console.log(`breaking: comparing with ${git("log", "-1", "--format=%h %s", base)}`);
process.exitCode = compareWith(base);

function branchPoint() {
  const main = git("rev-parse", "--verify", "--quiet", "origin/main");
  if (main === undefined) return undefined;
  const point = git("merge-base", main, "HEAD");
  return point !== undefined && point !== git("rev-parse", "HEAD") && hasContract(point) ? point : undefined;
}

function beforeLastChange() {
  if (git("status", "--porcelain", "--", "proto") !== "") return hasContract("HEAD") ? "HEAD" : undefined;
  const last = git("log", "-1", "--format=%H", "--", "proto");
  if (last === undefined || last === "") return undefined;
  const before = `${last}^`;
  if (git("rev-parse", "--verify", "--quiet", before) === undefined && isShallow()) {
    git("fetch", "--quiet", "--deepen=50"); // without a remote the comparison is left out
  }
  return hasContract(before) ? before : undefined;
}

function isShallow() {
  return git("rev-parse", "--is-shallow-repository") === "true";
}

function hasContract(ref) {
  return (git("ls-tree", "-r", "--name-only", ref, "--", "proto") ?? "") !== "";
}

function compareWith(ref) {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-breaking-"));
  try {
    const archive = spawnSync("git", ["archive", ref, "proto", "buf.yaml"], { maxBuffer: 64 * 1024 * 1024 });
    const unpacked = spawnSync("tar", ["-x", "-C", directory], { input: archive.stdout });
    if (archive.status !== 0 || unpacked.status !== 0) throw new Error(`cannot take proto/ out of ${ref}`);
    cpSync("third-party", join(directory, "third-party"), { recursive: true });
    const { status } = spawnSync("npx", ["buf", "breaking", "--against", directory], { stdio: "inherit" });
    if (status === 0) console.log("breaking: compatible");
    return status ?? 1;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function git(...args) {
  const { status, stdout } = spawnSync("git", args, { encoding: "utf8" });
  return status === 0 ? stdout.trim() : undefined;
}
