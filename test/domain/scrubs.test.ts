/** Scrubs of a box: what is found becomes events, once a week by itself, and never too many at once. */
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { SCRUB_FIRST_MS, SCRUB_INTERVAL_MS, SCRUBS_MAX } from "../../src/base/limits.ts";
import type { ScrubProgress } from "../../src/domain/scrubs.ts";
import { LabClock } from "../support/engine-lab.ts";
import { BoxFixture, eventually, refusal } from "./box-fixture.ts";

/** A box with c1, which tracks g1d1 to g1d2. */
async function tracking(fixture: BoxFixture): Promise<void> {
  for (const name of ["one", "two"]) await fixture.create(name);
  const request = { pairs: [{ source: "g1d1", destination: "g1d2" }], kind: "quickopc", pace: 15 } as const;
  await fixture.box.copies.start(request, () => []);
  await eventually(async () => (await fixture.box.copies.get("c1")).phase === "tracking" || undefined);
}

async function all(progress: AsyncIterable<ScrubProgress>): Promise<ScrubProgress[]> {
  const seen: ScrubProgress[] = [];
  for await (const one of progress) seen.push(one);
  return seen;
}

async function damageLogs(fixture: BoxFixture): Promise<void> {
  const volumes = join(fixture.data, "state", "volumes");
  for (const uid of await readdir(volumes))
    for (const name of await readdir(join(volumes, uid)))
      if (name.startsWith("al-")) await writeFile(join(volumes, uid, name), Buffer.alloc(5000));
}

function metadataEvents(fixture: BoxFixture): string[] {
  const { items } = fixture.box.events("", { pageSize: 1000, pageToken: "" });
  return items.filter(({ type }) => type.startsWith("metadata.")).map(({ type, subject }) => `${type} ${subject}`);
}

test("a scrub tells what it found and how far it is; findings are events with place and remedy", async (t) => {
  const fixture = await BoxFixture.make(t);
  await fixture.start();
  await tracking(fixture);
  const signal = new AbortController().signal;
  const clean = await all(fixture.box.scrubs.run("", signal));
  t.true(clean.every(({ found }) => found === undefined));
  t.like(clean[0], { done: 0, total: 4, files: 0 });
  t.like(clean.at(-1), { done: 4, total: 4 });
  await damageLogs(fixture);
  const seen = (await all(fixture.box.scrubs.run("", signal))).flatMap(({ found }) => found ?? []);
  t.is(seen.length, 2);
  for (const { finding, state } of seen) {
    t.is(state, "repaired");
    t.regex(finding.path, /^state\/volumes\/[-0-9a-f]+\/al-\d+\.log$/);
  }
  t.deepEqual(metadataEvents(fixture), [
    "metadata.damaged g1d1",
    "metadata.repaired g1d1",
    "metadata.damaged g1d2",
    "metadata.repaired g1d2",
  ]);
  const { items } = fixture.box.events("g1d1", { pageSize: 1000, pageToken: "" });
  const damaged = items.find(({ type }) => type === "metadata.damaged");
  t.like(damaged?.attributes, { kind: "damaged", offsetBytes: "0" });
  t.is(damaged?.attributes["cost"], "", "it was written anew");
  t.deepEqual(
    (await all(fixture.box.scrubs.run("g1d1", signal))).flatMap(({ found }) => found ?? []),
    [],
  );
  await refusal(t, () => all(fixture.box.scrubs.run("g1d9", signal)), "VOLUME_NOT_FOUND");
});

test("at most four scrubs are under way; one whose client goes ends and makes room", async (t) => {
  const fixture = await BoxFixture.make(t);
  await fixture.start();
  await tracking(fixture);
  const gone = new AbortController();
  const scrubs = Array.from({ length: SCRUBS_MAX }, () => fixture.box.scrubs.run("", gone.signal));
  for (const scrub of scrubs) await scrub.next();
  await refusal(t, () => all(fixture.box.scrubs.run("", gone.signal)), "LIMIT_EXCEEDED");
  gone.abort();
  for (const scrub of scrubs) t.true((await scrub.next()).done);
  t.true((await all(fixture.box.scrubs.run("", new AbortController().signal))).length > 1);
});

test("the box scrubs itself an hour after its start and then every week; not when it is told not to", async (t) => {
  for (const scrub of ["weekly", "off"] as const) {
    const fixture = await BoxFixture.make(t);
    const clock = new LabClock();
    await fixture.start({ clock, scrub });
    await tracking(fixture);
    const times = scrub === "weekly" ? 1 : 0;
    await damageLogs(fixture);
    clock.advance(SCRUB_FIRST_MS - 60_000);
    t.deepEqual(metadataEvents(fixture), []);
    clock.advance(120_000);
    if (scrub === "weekly") await eventually(() => metadataEvents(fixture).length === 4 || undefined);
    await damageLogs(fixture);
    clock.advance(SCRUB_INTERVAL_MS / 2);
    t.is(metadataEvents(fixture).length, 4 * times);
    clock.advance(SCRUB_INTERVAL_MS);
    if (scrub === "weekly") await eventually(() => metadataEvents(fixture).length === 8 || undefined);
    else await all(fixture.box.scrubs.run("", new AbortController().signal));
    t.is(metadataEvents(fixture).length, scrub === "weekly" ? 8 : 4, "off: only when it is asked to");
    await fixture.stop();
  }
});
