/** data-safety 3.2, 9: after a clean stop every damage to a log is told; and what a superblock knows of its log after a kill. */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { MiB } from "../../src/base/units.ts";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, G } from "../support/copy-lab.ts";
import { checkLab, restore, type Snapshot, snapshotOf } from "../support/state-check.ts";

const SIZE = 8 * MiB;
const HEADER_BYTES = 4096;

/** Stopped: v1 is tracked to v2, with changes; v1 is being copied to v3. */
async function stopped(t: ExecutionContext): Promise<{ lab: CopyLab; snapshot: Snapshot; before: Snapshot }> {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3, 20]);
  await lab.copy(t, "v1", "v3", "opc");
  for (let step = 0; step < 3; step++) await lab.lab.step();
  const before = await snapshotOf(lab);
  await lab.engine.stop();
  return { lab, snapshot: await snapshotOf(lab), before };
}

const troublesOf = (lab: CopyLab) =>
  lab.lab.events.flatMap((event) => (event.type === "engine.trouble" ? [event.message] : []));

/** Starts on the state with one file changed; what the box says. */
async function toldOf(lab: CopyLab, snapshot: Snapshot, path: string, content: Uint8Array | undefined) {
  await restore(lab, snapshot);
  if (content === undefined) await lab.lab.stateFiles.remove(path);
  else lab.lab.stateFiles.damage(path, content);
  const { findings } = await checkLab(lab);
  lab.lab.events.length = 0;
  await lab.lab.boot();
  return { told: troublesOf(lab), found: findings.filter((one) => one.path === path) };
}

/** Offsets at which a frame ends. */
function frameEnds(content: Uint8Array): number[] {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const ends: number[] = [];
  for (let at = HEADER_BYTES; at < content.length; ) {
    at += 40 + view.getUint32(at + 8, true);
    ends.push(at);
  }
  return ends;
}

test("after a clean stop nothing is told and nothing found; flipped anywhere, cut anywhere, or gone, each log is told", async (t) => {
  const { lab, snapshot } = await stopped(t);
  await restore(lab, snapshot);
  t.deepEqual((await checkLab(lab)).findings, []);
  await lab.lab.boot();
  t.deepEqual(troublesOf(lab), []);
  const logs = [...snapshot.keys()].filter((path) => path.endsWith(".log"));
  t.true(logs.length >= 6, logs.join());
  for (const path of logs) {
    const content = snapshot.get(path) ?? new Uint8Array(0);
    const ends = frameEnds(content);
    const places = [
      0,
      5,
      10,
      40,
      2000,
      HEADER_BYTES - 1,
      ...[HEADER_BYTES, ...ends].flatMap((end) => [end, end + 9, end + 36]),
    ];
    for (const at of places.filter((place) => place < content.length)) {
      const flipped = content.slice();
      flipped[at] = (flipped[at] ?? 0) ^ 4;
      const { told, found } = await toldOf(lab, snapshot, path, flipped);
      t.true(
        told.some((text) => text.includes(path)),
        `${path} flipped at ${at} of ${content.length}: ${told}`,
      );
      t.true(found.length > 0, `fsck: ${path} flipped at ${at}`);
    }
    for (const length of [0, 100, HEADER_BYTES, ...ends.slice(0, -1), content.length - 1]) {
      if (length >= content.length) continue;
      const { told, found } = await toldOf(lab, snapshot, path, content.slice(0, length));
      t.true(
        told.some((text) => text.includes(path)),
        `${path} cut to ${length} of ${content.length}: ${told}`,
      );
      t.true(found.length > 0, `fsck: ${path} cut to ${length}`);
    }
  }
});

test("after a clean stop the earlier content of a log is no longer a log that a kill has left", async (t) => {
  const { lab, snapshot, before } = await stopped(t);
  const path = [...snapshot.keys()].find((one) => /c2\/copied-/.test(one)) ?? "";
  const content = snapshot.get(path) ?? new Uint8Array(0);
  const earlier = before.get(path) ?? new Uint8Array(0);
  t.true(earlier.length > HEADER_BYTES && earlier.length < content.length);
  const { told } = await toldOf(lab, snapshot, path, earlier.slice(0, frameEnds(earlier)[1]));
  t.true(told.some((text) => text.includes(path)));
  t.is((await lab.session("c2")).phase, "failed");
});

test("only what proves the end is damaged: told, and nothing fails", async (t) => {
  const paths = [...(await stopped(t)).snapshot.keys()].filter((one) => /(copied|al)-\d+\.log$/.test(one));
  t.is(paths.length, 4);
  for (const path of paths) {
    const { lab, snapshot } = await stopped(t); // each time, for what goes on copies
    const content = snapshot.get(path) ?? new Uint8Array(0);
    const { told } = await toldOf(lab, snapshot, path, content.slice(0, content.length - 3));
    t.true(
      told.some((text) => text.startsWith("nothing is lost") && text.includes(path)),
      `${path}: ${told}`,
    );
    t.deepEqual(
      (await lab.engine.sessions()).map(({ phase }) => phase),
      ["tracking", "copying"],
    );
  }
});

test("clean-stop.log damaged or cut: it is told that writes of others are not noticed, and every copy goes on", async (t) => {
  const { lab, snapshot } = await stopped(t);
  const content = snapshot.get("clean-stop.log") ?? new Uint8Array(0);
  for (const damaged of [
    content.slice(0, HEADER_BYTES),
    content.slice(0, 10),
    content.map((byte, at) => (at === 4200 ? byte ^ 1 : byte)),
  ]) {
    const { told, found } = await toldOf(lab, snapshot, "clean-stop.log", damaged);
    t.true(
      told.some((text) => /other programs .* not noticed.*clean-stop\.log/.test(text)),
      told.join(),
    );
    t.is(found[0]?.severity, "error");
    t.deepEqual(
      (await lab.engine.sessions()).map(({ phase }) => phase),
      ["tracking", "copying"],
    );
  }
});

test("a start after a clean stop, killed and started again: what it has written since is no damage", async (t) => {
  const { lab, snapshot } = await stopped(t);
  await restore(lab, snapshot);
  await lab.lab.boot();
  for (let step = 0; step < 3; step++) await lab.lab.step();
  await lab.touch("v1", [700]);
  for (let seed = 2; seed < 6; seed++) {
    await lab.lab.kill(seed);
    t.deepEqual(troublesOf(lab), []);
  }
});

test("a volume that is away keeps its stamp, and a start since is no clean stop: a torn tail is nothing special", async (t) => {
  const { lab, snapshot } = await stopped(t);
  await restore(lab, snapshot);
  lab.lab.disk("v3").away = new TidemarkError("PATH_NOT_FOUND", { message: "v3 is away", hint: "bring it back" });
  await lab.lab.boot();
  t.true((await lab.lab.stateFiles.list("")).includes("clean-stop.log"));
  await lab.touch("v1", [700]);
  await lab.lab.settle();
  await lab.lab.halt(1);
  const name = (await lab.lab.stateFiles.list("volumes/v1")).filter((one) => one.startsWith("al-")).at(-1) ?? "";
  const path = `volumes/v1/${name}`;
  const content = lab.lab.stateFiles.contents(path);
  lab.lab.stateFiles.damage(path, Buffer.concat([content, content.slice(HEADER_BYTES, HEADER_BYTES + 30)]));
  lab.lab.events.length = 0;
  await lab.lab.boot();
  t.deepEqual(
    troublesOf(lab).filter((text) => text.includes(path)),
    [],
  );
});

test("after a kill: a copied log that is shorter than its superblock knows is damaged, and the copy has failed", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  for (let step = 0; step < 4; step++) await lab.lab.step();
  await lab.engine.setPace("c1", 1); // a checkpoint
  await lab.lab.step();
  await lab.lab.halt(1);
  const path = "sessions/c1/copied-1.log";
  const content = lab.lab.stateFiles.contents(path);
  lab.lab.stateFiles.damage(path, content.slice(0, frameEnds(content)[1]));
  const { findings } = await checkLab(lab);
  t.true(findings.some((one) => one.path === path && one.severity === "error"));
  await lab.lab.boot();
  t.is((await lab.session("c1")).phase, "failed");
  t.true(
    troublesOf(lab).some((text) => text.includes(path)) || (await lab.session("c1")).failure?.message.includes(path),
  );
});

test("data-safety 1.2: a log that can neither be written nor cut off again ends the engine, also when the disk is full", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if ((type === "write" || type === "truncate") && path.startsWith("volumes/v1/al-"))
      throw new InjectedFailure("ENOSPC");
  };
  let answered = false;
  const settled = () => {
    answered = true;
  };
  lab.engine.write(lab.extent("v1"), 5 * MiB, new Uint8Array(G)).then(settled, settled);
  await lab.lab.settle();
  t.truthy(lab.lab.lost);
  t.false(answered);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  await lab.reads(t, "v1");
});
