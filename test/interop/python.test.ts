/**
 * A client in another language: Python, generated from proto/, does the quickstart's steps against a real daemon.
 *
 * Skipped, with the reason, where Python or its packages cannot be had; a failure where CI is set.
 */
import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import test, { type ExecutionContext } from "ava";
import { DaemonFixture } from "../server/fixture.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const run = promisify(execFile);
const INSTALL_MS = 240_000;

const directory = mkdtempSync(join(tmpdir(), "tidemark-python-"));
test.after.always(() => rm(directory, { recursive: true, force: true }));
const python = join(directory, "venv/bin/python");

const install = (program: string, args: readonly string[]) =>
  execFileSync(program, args, { timeout: INSTALL_MS, stdio: "pipe" });

/** Installs grpcio and generates the client. Returns why that cannot be done here; throws where CI is set. */
function prepare(): string {
  try {
    install("python3", ["-m", "venv", join(directory, "venv")]);
    const packages = ["grpcio", "grpcio-tools", "googleapis-common-protos"];
    install(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...packages]);
  } catch (error) {
    if (process.env["CI"] !== undefined) throw error;
    return `no Python with grpcio here: ${error instanceof Error ? error.message.slice(0, 200) : error}`;
  }
  const out = join(directory, "out");
  mkdirSync(out);
  const folder = join(root, "proto/tidemark/v1");
  const files = readdirSync(folder).map((name) => join(folder, name));
  const outputs = [`--python_out=${out}`, `--grpc_python_out=${out}`];
  install(python, ["-m", "grpc_tools.protoc", "-I", join(root, "proto"), ...outputs, ...files]);
  return "";
}

// Before the tests are declared, and in one go, so that a skip is counted as a skip.
const missing = prepare();
const title = "a Python client generated from proto/ does the quickstart's steps";

async function quickstart(t: ExecutionContext): Promise<void> {
  t.timeout(INSTALL_MS);
  const fixture = await DaemonFixture.start(t);
  const script = join(root, "interop/python/quickstart.py");
  const { stdout } = await run(python, [script, fixture.address, fixture.directory], {
    env: { ...process.env, PYTHONPATH: join(directory, "out") },
    timeout: 120_000,
  });
  const result = JSON.parse(stdout);
  t.like(result, {
    volume: "g1d1",
    explained: "COPY_REASON_DIFFERENCE",
    plannedGranules: [1024, 3, 4],
    reasons: ["COPY_REASON_FIRST_COPY", "COPY_REASON_DIFFERENCE", "COPY_REASON_RESTORE_DIFFERENCE"],
    restoredSha256: result.expectedSha256,
    events: ["copy.started", "copy.copied", "copy.restarted", "copy.copied"],
  });
  t.is(result.refused.reason, "SOURCE_IS_DESTINATION");
  t.is(result.refused.status, "FAILED_PRECONDITION");
  t.truthy(result.refused.hint);
}

if (missing === "") test(title, quickstart);
else test.skip(`${title} (${missing})`, quickstart);
