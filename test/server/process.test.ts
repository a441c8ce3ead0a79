/** The daemon as a process: start, second daemon, signals, kill -9, options. */
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { mkdtemp, readdir, realpath, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { call, connect } from "./fixture.ts";

const MAIN = new URL("../../src/server/main.ts", import.meta.url).pathname;

interface Run {
  readonly child: ChildProcess;
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** The line that says that it serves. */
  readonly serving: Promise<string>;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

function run(t: ExecutionContext, args: readonly string[], environment: NodeJS.ProcessEnv = {}): Run {
  const { UV_THREADPOOL_SIZE: _, ...inherited } = process.env;
  const child = spawn(process.execPath, ["--import=tsx", MAIN, ...args], {
    env: { ...inherited, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  return watch(t, child);
}

function watch(t: ExecutionContext, child: ChildProcess): Run {
  let [stdout, stderr] = ["", ""];
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal }));
  });
  const serving = new Promise<string>((resolve, reject) => {
    child.stdout?.on("data", (data: Buffer) => {
      stdout += data.toString();
      const line = stdout.split("\n").find((text) => text.startsWith("tidemark: serving"));
      if (line !== undefined) resolve(line);
    });
    void ended.then(() => reject(new Error(`it ended: ${stderr}`)));
  });
  serving.catch(() => {});
  child.stderr?.on("data", (data: Buffer) => (stderr += data.toString()));
  t.teardown(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return { child, stdout: () => stdout, stderr: () => stderr, serving, ended };
}

async function dataDirectory(t: ExecutionContext): Promise<string> {
  const directory = await realpath(await mkdtemp(join(tmpdir(), "tidemark-process-")));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return join(directory, "data");
}

test.serial(
  "it says where it serves, with many threads for files; a second daemon names the first; SIGTERM ends it",
  async (t) => {
    const data = await dataDirectory(t);
    const first = run(t, ["serve", "--data", data, "--box", "5"]);
    const address = `unix:${data}/run/api.sock`;
    t.is(
      await first.serving,
      `tidemark: serving, address=${address}, nbd=nbd+unix:///?socket=${data}/run/nbd.sock, box=5`,
    );
    const clients = connect(address);
    t.teardown(() => clients.close());
    const { findings } = await call(clients.box, "diagnose", {});
    t.false(findings.some(({ check }) => check === "thread-pool-small"));
    const threads = (await readdir(`/proc/${first.child.pid}/task`)).length;
    t.true(threads > 32, `${threads} threads`);
    t.is((await stat(`${data}/db`)).mode & 0o077, 0);

    const second = run(t, ["serve", "--data", data]);
    t.deepEqual(await second.ended, { code: 1, signal: null });
    t.true(second.stderr().includes(`process ${first.child.pid}`), second.stderr());
    t.true(second.stderr().includes("STATE_DIRECTORY_LOCKED"));
    t.truthy(await call(clients.box, "getBox", {}));

    first.child.kill("SIGTERM");
    t.deepEqual(await first.ended, { code: 0, signal: null });
    await t.throwsAsync(() => stat(`${data}/run/api.sock`));
  },
);

test.serial("after kill -9 it starts again on the sockets that were left, with everything acknowledged", async (t) => {
  const data = await dataDirectory(t);
  const first = run(t, ["--data", data]);
  await first.serving;
  const clients = connect(`unix:${data}/run/api.sock`);
  const path = `${data}.img`;
  await call(clients.volumes, "createVolume", { path, sizeBytes: 1n << 20n, lu: 3, label: "kept", requestId: "k" });
  await call(clients.exports, "addExport", { name: "kept", readOnly: false, requestId: "" });
  first.child.kill("SIGKILL");
  t.is((await first.ended).signal, "SIGKILL");
  clients.close();
  t.true((await stat(`${data}/run/api.sock`)).isSocket());
  const second = run(t, [], { TIDEMARK_DATA: data });
  await second.serving;
  const again = connect(`unix:${data}/run/api.sock`);
  t.teardown(() => again.close());
  const { volume } = await call(again.volumes, "getVolume", { name: "kept" });
  t.is(volume?.name, "g1d3");
  t.is(volume?.state, 1);
  t.is((await call(again.exports, "listExports", { pageSize: 0, pageToken: "" })).exports.length, 1);
  second.child.kill("SIGINT");
  t.is((await second.ended).code, 0);
});

test.serial("loopback TCP is served when asked for, with a warning; the port is told", async (t) => {
  const data = await dataDirectory(t);
  const daemon = run(t, ["--data", data, "--address", "127.0.0.1:0", "--nbd", "127.0.0.1:0"]);
  const line = await daemon.serving;
  const address = /address=(127\.0\.0\.1:[1-9]\d*), nbd=nbd:\/\/127\.0\.0\.1:[1-9]\d*/.exec(line)?.[1];
  t.truthy(address, line);
  const clients = connect(address ?? "");
  t.teardown(() => clients.close());
  t.deepEqual((await call(clients.box, "getBox", {})).box?.addresses, [address ?? ""]);
  t.true(daemon.stderr().includes("plain TCP"));
  await t.throwsAsync(() => stat(`${data}/run/api.sock`));
  daemon.child.kill("SIGTERM");
  t.is((await daemon.ended).code, 0);
});

test.serial("wrong options, another box number and a bad directory end it with what to do", async (t) => {
  const data = await dataDirectory(t);
  const outcome = async (args: string[]) => {
    const daemon = run(t, args);
    const { code } = await daemon.ended;
    return { code, text: daemon.stderr() };
  };
  const options = await outcome(["--data", data, "--address", "0.0.0.0:9000"]);
  t.is(options.code, 2);
  t.true(options.text.includes("loopback") && options.text.includes("hint:"));
  t.is((await outcome([])).code, 2);
  const directory = await outcome(["--data", "/proc/nothing/here"]);
  t.is(directory.code, 1);
  t.true(directory.text.includes("STATE_DIRECTORY_INVALID"));
  const first = run(t, ["--data", data, "--box", "5", "--nbd", "none"]);
  t.true((await first.serving).includes("nbd=none"));
  first.child.kill("SIGTERM");
  await first.ended;
  const other = await outcome(["--data", data, "--box", "6"]);
  t.is(other.code, 1);
  t.true(other.text.includes("belongs to box 5"), other.text);
});

/** Runs the daemon in a directory that has been removed. */
function runNowhere(t: ExecutionContext, where: string, args: readonly string[]): Run {
  const command = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"';
  const main = new URL("../../dist/server/main.js", import.meta.url).pathname;
  const options: SpawnOptions = { stdio: ["ignore", "pipe", "pipe"] };
  return watch(t, spawn("sh", ["-c", command, where, process.execPath, main, ...args], options));
}

test.serial(
  "where the working directory is gone it serves absolute paths, and says what is wrong with others",
  async (t) => {
    if (process.env["TIDEMARK_TEST_BUILD"] !== "dist") return void t.pass("the loader of sources needs a directory");
    const data = await dataDirectory(t);
    const where = join(data, "..", "gone");
    const serving = runNowhere(t, where, ["serve", "--data", data, "--nbd", "none"]);
    t.regex(await serving.serving, /address=unix:/);
    serving.child.kill("SIGTERM");
    t.is((await serving.ended).code, 0);
    const refused = runNowhere(t, where, ["serve", "--data", "relative"]);
    t.is((await refused.ended).code, 2);
    t.regex(
      refused.stderr(),
      /--data relative: the working directory no longer exists \(INVALID_ARGUMENT\)\n {2}hint: .*absolute path/,
    );
  },
);
