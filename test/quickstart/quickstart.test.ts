/** The quickstart as users run it: its result, its manners with given images, and that it leaves nothing behind. */
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { NbdClient } from "../../src/quickstart/nbd-client.ts";
import { runQuickstart, temporaryDirectory } from "./run-quickstart.ts";

interface StepFacts {
  readonly step: string;
  readonly copyId: string;
  readonly kind: string;
  readonly reason: string;
  readonly record: number;
  readonly recordsDuringPoint: number;
  readonly plannedGranules: number;
  readonly touchedGranules: number;
  readonly bytesPlanned: number;
  readonly bytesCopied: number;
  readonly bytesZeroed: number;
  readonly bytesCloned: number;
  readonly expectedSha256: string;
  readonly actualSha256: string;
}

interface Facts {
  readonly image: { readonly kind: string; readonly path?: string; readonly sizeBytes: number };
  readonly source: string;
  readonly totalGranules: number;
  readonly records: number;
  readonly steps: readonly [StepFacts, StepFacts, StepFacts];
  readonly box?: { readonly address: string; readonly pid: number; readonly directory: string };
}

/** What must hold for every image. */
function checkFacts(t: ExecutionContext, facts: Facts): void {
  const [first, second, third] = facts.steps;
  t.deepEqual(
    facts.steps.map(({ step, kind, reason }) => [step, kind, reason]),
    [
      ["first copy", "quickopc", "FIRST_COPY"],
      ["copy again", "quickopc", "DIFFERENCE"],
      ["restore", "opc", "RESTORE_DIFFERENCE"],
    ],
  );
  for (const step of facts.steps) {
    t.regex(step.actualSha256, /^[0-9a-f]{64}$/);
    t.is(step.actualSha256, step.expectedSha256);
    t.is(step.bytesCopied + step.bytesZeroed + step.bytesCloned, step.bytesPlanned);
  }
  t.is(first.plannedGranules, facts.totalGranules);
  t.is(first.bytesPlanned, facts.image.sizeBytes);
  t.is(first.copyId, second.copyId, "the session keeps its number");
  t.is(second.plannedGranules, second.touchedGranules);
  t.is(third.plannedGranules, third.touchedGranules);
  t.true(second.record > first.record, "the second point is later");
  t.true(facts.records > second.record, "the writer went on after it");
  t.is(third.record, second.record, "the restore goes back to the second point");
  t.is(third.actualSha256, second.actualSha256, "the restored source is what the copy was");
  t.not(first.actualSha256, second.actualSha256);
}

test.serial(
  "spec/11 #30 #32: an image is copied while it is written to, copied again by its difference, and restored",
  async (t) => {
    const tmp = temporaryDirectory(t);
    const { code, stdout, stderr } = await runQuickstart(["--json", "--size", "32MiB"], { tmp });
    t.is(code, 0, stderr);
    t.is(stderr, "");
    const facts = JSON.parse(stdout) as Facts;
    t.is(facts.image.sizeBytes, 32 * 1024 * 1024);
    t.is(facts.box, undefined);
    checkFacts(t, facts);
    t.true(facts.steps[1].plannedGranules < facts.totalGranules / 4, "the difference is a small part");
    t.deepEqual(directoriesOf(tmp), [], "nothing is left behind");
  },
);

test.serial("a given image is copied, whatever its size, and stays as it is", async (t) => {
  const tmp = temporaryDirectory(t);
  const path = join(temporaryDirectory(t), "disk.img");
  const content = randomBytes(3 * 1024 * 1024 + 1001);
  content.fill(0, 500_000, 1_500_000);
  writeFileSync(path, content, { mode: 0o400 });
  const before = statSync(path, { bigint: true });
  const { code, stdout, stderr } = await runQuickstart(["--json", path], { tmp });
  t.is(code, 0, stderr);
  const facts = JSON.parse(stdout) as Facts;
  t.like(facts.image, { kind: "given", path, sizeBytes: Math.ceil(content.length / 512) * 512 });
  checkFacts(t, facts);
  t.is(digestOf(readFileSync(path)), digestOf(content));
  t.is(statSync(path, { bigint: true }).mtimeNs, before.mtimeNs);
  t.deepEqual(directoriesOf(tmp), []);
});

test.serial("--keep leaves a box that answers, and says how to end it", async (t) => {
  const tmp = temporaryDirectory(t);
  const { code, stdout, stderr } = await runQuickstart(["--keep", "--size", "16MiB"], { tmp });
  t.is(code, 0, stderr);
  const pid = Number(/kill (\d+);/.exec(stdout)?.[1]);
  t.true(pid > 0, stdout);
  t.teardown(() => endProcess(pid));
  const [directory = ""] = directoriesOf(tmp);
  const socket = join(tmp, directory, "box", "run", "nbd.sock");
  t.true(stdout.includes(`export TIDEMARK_ADDRESS=unix:${join(tmp, directory, "box", "run", "api.sock")}\n`));
  t.regex(stdout, /^STEP +FUNCTION .*\nfirst copy +quickopc .*\ncopy again +quickopc .*\nrestore +reverse opc /m);
  const signal = new AbortController().signal;
  const client = await NbdClient.connect(socket, "g1d1", signal);
  t.is(client.sizeBytes, 16 * 1024 * 1024);
  t.is((await client.read(0, 4096)).length, 4096);
  await t.throwsAsync(client.read(client.sizeBytes, 512), { name: "NbdFailure" });
  client.close();
  await t.throwsAsync(client.read(0, 512), { name: "NbdFailure" });
  await t.throwsAsync(NbdClient.connect(socket, "g1d77", signal), { name: "NbdFailure", message: /g1d77/ });
});

test.serial("Ctrl-C at any step ends everything", async (t) => {
  for (const moment of ["an image is made", "a box is started", "QuickOPC is fired while", "is fired again"]) {
    const tmp = temporaryDirectory(t);
    let sent = false;
    const { code, stdout, stderr } = await runQuickstart(["--size", "16MiB"], {
      tmp,
      onStderr(text, child) {
        if (sent || !text.includes(moment)) return;
        sent = true;
        child.kill("SIGINT");
      },
    });
    t.is(code, 130, `${moment}: ${stderr}`);
    t.is(stdout, "");
    t.true(stderr.endsWith("quickstart: interrupted; the box is stopped and its directory removed\n"), stderr);
    t.deepEqual(directoriesOf(tmp), [], moment);
  }
});

test.serial("what cannot be used is refused with what to do about it", async (t) => {
  const directory = temporaryDirectory(t);
  const qcow2 = join(directory, "disk.qcow2");
  const empty = join(directory, "empty.img");
  writeFileSync(qcow2, Buffer.concat([Buffer.from([0x51, 0x46, 0x49, 0xfb]), Buffer.alloc(1000)]));
  writeFileSync(empty, "");
  const cases: readonly (readonly [args: string[], code: number, message: RegExp])[] = [
    [[join(directory, "nothing.img")], 1, /nothing\.img cannot be used: ENOENT\n {2}try: check the path/],
    [[directory], 1, /is no regular file\n {2}try: /],
    [[empty], 1, /is empty\n {2}try: /],
    [[qcow2], 1, /is a qcow2 image, not a raw one\n {2}try: convert it first: qemu-img convert/],
    [[qcow2, empty], 2, /give one image, or none/],
    [[qcow2, "--size", "32MiB"], 2, /a given image has its own size/],
    [["--size", "1MiB"], 2, /at least 16MiB/],
    [["--size", "much"], 2, /`much` is not a size/],
    [["--frobnicate"], 2, /frobnicate/],
  ];
  for (const [args, expected, message] of cases) {
    const tmp = temporaryDirectory(t);
    const { code, stdout, stderr } = await runQuickstart(args, { tmp });
    t.is(code, expected, stderr);
    t.regex(stderr, message);
    t.is(stdout, "");
    t.deepEqual(directoriesOf(tmp), []);
  }
});

/** The quickstart's directories; the compiler of tests run from the source keeps its cache there too. */
function directoriesOf(tmp: string): string[] {
  return readdirSync(tmp).filter((name) => name.startsWith("tidemark-quickstart-"));
}

function digestOf(data: Buffer): string {
  return createHash("sha256").update(data).digest("hex");
}

/** The daemon of a test that kept it; it may have gone already. */
function endProcess(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (!(error instanceof Error) || !("code" in error) || error.code !== "ESRCH") throw error;
  }
}
