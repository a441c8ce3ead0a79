/**
 * What the offline check says of a state that is whole file by file, and still not right: files of others, of newer programs,
 * without permission, rows and extents that do not fit, and what nobody knows.
 */
import test, { type ExecutionContext } from "ava";
import { checkState } from "../../src/engine/check/check-state.ts";
import { isRepairable, repairState } from "../../src/engine/check/repair.ts";
import { createBoxFile } from "../../src/engine/durable/box-file.ts";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { crc32c } from "../../src/engine/map/core.ts";
import { CopyLab, G } from "../support/copy-lab.ts";
import { brief, checkLab, filesOf, outcomeOfStart, snapshotOf, specsOf } from "../support/state-check.ts";

const SMALL = 20 * G + 1536;
const WHOLE = { c1: "tracking DIFFERENCE", c2: "tracking DIFFERENCE" };

/** c1 tracks v1 to v2, c2 tracks v3 to v4; stopped in order. */
async function stopped(t: ExecutionContext): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
  for (const [source, destination] of [
    ["v1", "v2"],
    ["v3", "v4"],
  ] as const)
    await lab.copy(t, source, destination, "quickopc", { pace: 15 });
  await lab.lab.finish();
  for (const source of ["v1", "v3"]) await lab.touch(source, [3]);
  await lab.engine.stop();
  return lab;
}

async function swap(lab: CopyLab, one: RegExp, other: RegExp): Promise<[string, string]> {
  const { stateFiles } = lab.lab;
  const names = await filesOf(lab);
  const [a = "", b = ""] = [one, other].map((pattern) => names.find((name) => pattern.test(name)));
  const [first, second] = [stateFiles.contents(a), stateFiles.contents(b)];
  stateFiles.damage(a, second);
  stateFiles.damage(b, first);
  return [a, b];
}

for (const [what, one, other] of [
  ["superblocks", /volumes\/v1\/super/, /volumes\/v3\/super/],
  ["maps", /volumes\/v1\/epoch-/, /volumes\/v3\/epoch-/],
  ["activity logs", /volumes\/v1\/al-/, /volumes\/v3\/al-/],
  ["sessions' superblocks", /sessions\/c1\/super/, /sessions\/c2\/super/],
  ["sessions' maps", /sessions\/c1\/pending-/, /sessions\/c2\/pending-/],
  ["sessions' logs", /sessions\/c1\/copied-/, /sessions\/c2\/copied-/],
] as const)
  test(`${what} that were swapped are foreign, with owner and remedy; swapped back, nothing was lost`, async (t) => {
    const lab = await stopped(t);
    const paths = await swap(lab, one, other);
    const { findings } = await checkLab(lab);
    for (const path of paths) {
      const finding = findings.find((candidate) => candidate.path === path);
      t.like(finding, { kind: "foreign", severity: "error" }, JSON.stringify(findings));
      t.regex(finding?.message ?? "", /belongs to/);
      t.regex(finding?.remedy ?? "", /put them back before the next start/);
    }
    await swap(lab, one, other);
    t.deepEqual((await checkLab(lab)).findings, []);
    t.deepEqual(await outcomeOfStart(lab), WHOLE);
  });

/** What c1 costs when a file of it or of its volumes must not be opened. */
const LEFT_ALONE = "volume v1, volume v2, copy c1 are out of service until that is mended and the box started again";

test("a newer format: the check names file, formats and what is out of service; a repair is refused", async (t) => {
  const lab = await stopped(t);
  const { stateFiles } = lab.lab;
  for (const [path, checksumAt, cost] of [
    ["volumes/v1/super", 4092, LEFT_ALONE],
    [(await filesOf(lab)).find((name) => /points-/.test(name)) ?? "", 4092, "the box does not start"],
    [(await filesOf(lab)).find((name) => /c1\/pending-/.test(name)) ?? "", 508, LEFT_ALONE],
  ] as const) {
    const content = stateFiles.contents(path);
    const newer = Buffer.from(content);
    newer.writeUInt16LE(2, 8);
    newer.writeUInt32LE(crc32c(newer.subarray(0, checksumAt)), checksumAt);
    stateFiles.damage(path, newer);
    const { findings, outOfServiceIds } = await checkLab(lab);
    const finding = findings.find((candidate) => candidate.path === path);
    t.like(finding, { kind: "too-new", cost, repairable: false });
    t.regex(finding?.message ?? "", /format 2; this program knows formats up to 1/);
    t.false(isRepairable(findings));
    t.deepEqual(outOfServiceIds, cost === LEFT_ALONE ? ["c1"] : []);
    const before = await snapshotOf(lab);
    if (cost === LEFT_ALONE) {
      t.deepEqual(await outcomeOfStart(lab), { c2: WHOLE.c2 });
      await lab.engine.stop();
    } else {
      await t.throwsAsync(() => lab.lab.kill(1), { code: "SCHEMA_TOO_NEW" } as never);
      await lab.lab.halt(1);
    }
    t.deepEqual((await snapshotOf(lab)).get(path), before.get(path), "it is as it was");
    stateFiles.damage(path, content);
  }
  t.deepEqual(await outcomeOfStart(lab), WHOLE);
});

for (const [path, subject] of [
  ["volumes/v1/super", "v1"],
  ["sessions/c1/super", "c1"],
] as const)
  test(`${path} without permission: the check says what is out of service, as the start does, and what to do`, async (t) => {
    const lab = await stopped(t);
    const { stateFiles } = lab.lab;
    stateFiles.intercept = ({ type, path: at }) => {
      if (type === "open" && at === path) throw new InjectedFailure("EACCES");
    };
    const { findings } = await checkLab(lab);
    t.deepEqual(brief(findings), [`unreadable ${path}`]);
    t.like(findings[0], { cost: LEFT_ALONE, repairable: false, subject });
    t.regex(findings[0]?.remedy ?? "", /give the state directory back/);
    t.false(isRepairable(findings));
    await lab.lab.bootAfterStop();
    t.deepEqual(
      lab.lab.found?.volumes.filter(({ online }) => !online).map(({ uid }) => uid),
      ["v1", "v2"],
    );
    await lab.engine.stop();
    stateFiles.intercept = undefined;
    t.deepEqual(await outcomeOfStart(lab), WHOLE);
  });

test("nobody but the rows knows of a copy whose files must not be opened: without them the box does not start", async (t) => {
  const lab = await stopped(t);
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "open" && /^sessions\/c1\//.test(path)) throw new InjectedFailure("EACCES");
  };
  const without = await checkLab(lab);
  t.deepEqual([...new Set(without.findings.map(({ cost }) => cost))], ["the box does not start"]);
  const hints = [{ id: "c1", volumeUids: ["v1", "v2"] }];
  const { findings } = await checkState(lab.lab.stateFiles, specsOf(lab), hints);
  t.deepEqual([...new Set(findings.map(({ cost }) => cost))], [LEFT_ALONE]);
});

test("volumes that are not registered, or smaller than a copy needs: the copies fail, the directories are kept and named", async (t) => {
  const lab = await stopped(t);
  const specs = specsOf(lab);
  const without = await checkState(
    lab.lab.stateFiles,
    specs.filter(({ uid }) => uid !== "v1"),
  );
  t.deepEqual(brief(without.findings), ["foreign sessions/c1/super", "unknown volumes/v1"]);
  t.regex(without.findings[0]?.message ?? "", /v1 \(v1\) is not registered/);
  const smaller = specs.map((spec) => (spec.uid === "v4" ? { ...spec, sizeBytes: 8 * G } : spec));
  const { findings } = await checkState(lab.lab.stateFiles, smaller);
  t.true(
    findings.some(({ path, message }) => path === "sessions/c2/super" && /v4 ends at byte/.test(message)),
    JSON.stringify(findings),
  );
  lab.lab.disk("v4").registeredBytes = 8 * G;
  await lab.lab.kill(1);
  t.is((await lab.session("c2")).phase, "failed");
  t.is((await lab.session("c1")).phase, "tracking");
});

test("without rows everything is still checked, with the sizes that the files say; a repair is not offered", async (t) => {
  const lab = await stopped(t);
  t.deepEqual((await checkState(lab.lab.stateFiles, undefined)).findings, []);
  const map = (await filesOf(lab)).find((name) => /volumes\/v1\/epoch-/.test(name)) ?? "";
  lab.lab.stateFiles.damage(map, new Uint8Array(700));
  t.deepEqual(brief((await checkState(lab.lab.stateFiles, undefined)).findings), [`damaged ${map}`]);
});

test("how often a copy without its superblock has run is not said: the record in its log is from its first start", async (t) => {
  const lab = await stopped(t);
  const { stateFiles } = lab.lab;
  stateFiles.damage("sessions/c1/super", new Uint8Array(8192));
  const { sessions, findings } = await checkLab(lab);
  t.deepEqual(brief(findings), ["damaged sessions/c1/super"]);
  t.like(sessions, [{ id: "c1", generation: undefined }, { id: "c2" }]);
  t.true((sessions[1]?.generation ?? 0) > 0);
});

test("what nobody knows is named and left alone", async (t) => {
  const lab = await stopped(t);
  const { stateFiles } = lab.lab;
  stateFiles.damage("notes.txt", new Uint8Array(3));
  const record = { boxUid: "uid", boxNumber: 1, batches: 3, digest: "0".repeat(32) };
  await (await createBoxFile(stateFiles, record, "nothing")).close(); // what it says is for whoever knows the database
  stateFiles.damage("points-1.log.damaged", new Uint8Array(3));
  await stateFiles.makeDirectory("volumes/lost+found");
  const { findings } = await checkLab(lab);
  t.deepEqual(brief(findings).sort(), [
    "set-aside points-1.log.damaged",
    "unknown notes.txt",
    "unknown volumes/lost+found",
  ]);
  t.true(findings.every(({ cost, repairable }) => cost === "" && !repairable));
  const { after } = await repairState(stateFiles, specsOf(lab));
  t.deepEqual(brief(after.findings), brief(findings), "a repair leaves it alone, too");
});

test("what lies where a copy's directory has to be is named, and costs nothing", async (t) => {
  const lab = await stopped(t);
  for (const name of ["stray", "c77"]) lab.lab.stateFiles.damage(`sessions/${name}`, new Uint8Array(3));
  const { findings } = await checkLab(lab);
  t.deepEqual(brief(findings), ["unknown sessions/c77", "unknown sessions/stray"]);
  t.true(findings.every(({ cost }) => cost === ""));
  t.deepEqual(await outcomeOfStart(lab), WHOLE);
});
