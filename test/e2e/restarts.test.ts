/**
 * The daemon stops, cleanly or by `kill -9`, while copies run and track and clients write: afterwards every acknowledged
 * write is there, copies go on at their point, and the next run is still a difference.
 */
import { randomBytes } from "node:crypto";
import test, { type ExecutionContext } from "ava";
import { CopyReason } from "../../src/gen/tidemark/v1/copy.ts";
import { CopyKind, CopyPhase, codeOf, Daemon, sameBytes } from "../support/daemon.ts";

const MiB = 1 << 20;
const SECTOR = 512;

test("a clean restart: sessions, maps, percentages, exports and epochs are what they were; differential stays differential", async (t) => {
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two", "three", "four"]) await daemon.volume(label, 24 * MiB);
  const tracked = await daemon.start("one", "two", CopyKind.QUICKOPC);
  await daemon.copied(tracked.id);
  await daemon.start("three", "four", CopyKind.OPC, 1);
  await daemon.uri("one");
  for (const at of [0, 5 * MiB, 5 * MiB + 8192, 20 * MiB]) await daemon.write("one", at, randomBytes(4096));
  await daemon.write("two", 9 * MiB, randomBytes(100));
  await daemon.write("three", 23 * MiB, randomBytes(4096));
  const point = await daemon.read("four");
  const before = await daemon.copy(tracked.id);
  t.is(before.changedGranules, 5n);

  await daemon.restartDaemon();
  const after = await daemon.copy(tracked.id);
  t.deepEqual({ ...after, etaSeconds: 0n }, { ...before, etaSeconds: 0n });
  t.regex(await daemon.uri("one"), /g1d1/);
  sameBytes(t, await daemon.read("four"), point, "the plain copy, still at its point");
  const again = await daemon.restart(tracked.id);
  t.like(again, { reason: CopyReason.DIFFERENCE, plannedGranules: 5n });
  await daemon.copied(again.id);
  sameBytes(t, await daemon.image("two"), await daemon.image("one"), "the difference");
});

/** What the source must read as: acknowledged writes, and for the one under way at a kill either state of each sector. */
class Witness {
  readonly image: Buffer;
  #underWay: { at: number; data: Buffer } | undefined;

  constructor(image: Buffer) {
    this.image = Buffer.from(image);
  }

  begin(at: number, data: Buffer): void {
    this.#underWay = { at, data };
  }

  acknowledged(): void {
    if (this.#underWay) this.#underWay.data.copy(this.image, this.#underWay.at);
    this.#underWay = undefined;
  }

  /** Checks what is read after a kill, and takes over what the write under way has become. */
  check(t: ExecutionContext, read: Buffer, what: string): void {
    const { at, data } = this.#underWay ?? { at: 0, data: Buffer.alloc(0) };
    this.#underWay = undefined;
    const wanted = Buffer.from(this.image);
    for (let done = 0; done < data.length; ) {
      const end = Math.min(data.length, (Math.floor((at + done) / SECTOR) + 1) * SECTOR - at);
      if (read.subarray(at + done, at + end).equals(data.subarray(done, end))) data.copy(wanted, at + done, done, end);
      done = end;
    }
    sameBytes(t, read, wanted, what);
    read.copy(this.image);
  }
}

test("kill -9, five times, while copying and while tracking, under writes: byte-exact and still differential", async (t) => {
  const daemon = await Daemon.start(t);
  const sizeBytes = 64 * MiB;
  for (const label of ["one", "two"]) await daemon.volume(label, sizeBytes);
  const witness = new Witness(await daemon.image("one"));
  /** Writes lie in two regions, so that a map widened after a crash is still a small part. */
  const write = async (number: number) => {
    const at = (number % 2 === 0 ? 1 : 33) * MiB + ((number * 7919) % 200) * 10_000;
    const data = randomBytes(3000 + ((number * 31) % 6000));
    witness.begin(at, data);
    await daemon.write("one", at, data);
    witness.acknowledged();
  };
  let number = 0;
  /** Some writes that are acknowledged, then the kill with one more under way. */
  const killUnderWrites = async () => {
    for (let count = 0; count < 25; count++) await write(number++);
    const last = write(number++).catch((error: unknown) => t.truthy(codeOf(error) || "the connection is gone"));
    await daemon.box.kill();
    await last;
    await daemon.serveAgain();
    witness.check(t, await daemon.read("one"), `the source after the kill at write ${number}`);
  };

  const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC);
  await daemon.copied(id);
  for (const stage of ["tracking", "copying", "tracking", "copying", "tracking"]) {
    if (stage === "tracking") {
      await killUnderWrites();
      t.is((await daemon.copy(id)).phase, CopyPhase.TRACKING);
    }
    const again = await daemon.restart(id);
    t.true(again.reason === CopyReason.DIFFERENCE || again.reason === CopyReason.MAP_WIDENED, `reason ${again.reason}`);
    t.true(again.plannedGranules * 3n < again.totalGranules, `${again.plannedGranules} of ${again.totalGranules}`);
    const point = Buffer.from(witness.image);
    if (stage === "copying") await killUnderWrites();
    const copy = await daemon.copied(id);
    t.is(copy.phase, CopyPhase.TRACKING, copy.failureMessage);
    sameBytes(t, await daemon.read("two"), point, `the destination at its point, killed while ${stage}`);
    sameBytes(t, await daemon.image("two"), point, "on its disk too");
  }
});

test("kill -9 in the middle of a first copy: it goes on at its point and ends", async (t) => {
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two", "three"]) await daemon.volume(label, 48 * MiB);
  const point = await daemon.image("one");
  const tracked = await daemon.start("one", "two", CopyKind.QUICKOPC, 2);
  const plain = await daemon.start("one", "three", CopyKind.OPC, 2);
  await daemon.write("one", 40 * MiB, randomBytes(MiB));
  await daemon.killAndServe();
  for (const { id } of [tracked, plain]) {
    const copy = await daemon.copy(id);
    t.not(copy.phase, CopyPhase.FAILED, copy.failureMessage);
  }
  await daemon.write("one", 44 * MiB, randomBytes(MiB));
  for (const name of ["two", "three"]) sameBytes(t, await daemon.read(name), point, `${name} right after the kill`);
  t.is((await daemon.copied(tracked.id)).phase, CopyPhase.TRACKING);
  t.is((await daemon.copied(plain.id)).phase, CopyPhase.COMPLETED);
  for (const name of ["two", "three"]) sameBytes(t, await daemon.image(name), point, `${name} when it is copied`);
});
