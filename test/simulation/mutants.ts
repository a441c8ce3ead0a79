/**
 * The engine with one rule left out: for each ordering rule of data-safety 1.2-1.4, 1.8 and 1.10 a change of its source; those
 * of 1.9, about rows, are in domain-mutants.ts.
 *
 * None of this exists in the engine: a mutant is made by replacing text in a copy of the source (mutant-tree.ts). Each text
 * must be found exactly once, so that a mutant cannot come to mean nothing while the engine changes.
 */
import { DOMAIN_MUTANTS } from "./domain-mutants.ts";
import { IO_MUTANTS } from "./io-mutants.ts";
import type { Feature } from "./world.ts";

export interface Edit {
  readonly file: string;
  readonly find: string;
  readonly put: string;
}

export interface Mutant {
  readonly name: string;
  /** The rule that is left out, and where it stands. */
  readonly rule: string;
  readonly edits: readonly Edit[];
  /** Worlds without these cannot notice it: their seeds are passed over. */
  readonly needs?: readonly Feature[];
  /** Histories do not meet it, or hardly ever: a test of the part that keeps the rule (mutant-test.ts). */
  readonly noticedBy?: NamedTest | undefined;
}

/** One that fails in the mutant's tree. */
export interface NamedTest {
  readonly file: string;
  /** What its title begins with. */
  readonly title: string;
}

function mutant(name: string, rule: string, file: string, find: string, put: string): Mutant {
  return { name, rule, edits: [{ file: `src/engine/${file}`, find, put }] };
}

const ENGINE_MUTANTS: readonly Mutant[] = [
  // --- 1.2 -----------------------------------------------------------------------------------------------------------------
  mutant(
    "final-failure-ignored",
    "1.2: a failed sync of metadata ends the process",
    "engine.ts",
    "    this.#failStop.arm();\n",
    "",
  ),
  mutant(
    "failed-flush-forgiven",
    "1.2: a failed sync of a volume fails the copies that relied on it",
    "session/session.ts",
    `    this.pending.union(this.uncommitted);
    this.uncommitted.clear();
    this.commits.discard();
    // If that cannot`,
    `    return;
    // If that cannot`,
  ),
  // --- 1.3 -----------------------------------------------------------------------------------------------------------------
  mutant(
    "hot-not-durable",
    "1.3: that a region is hot is durable before the first write into it",
    "durable/activity-log.ts",
    "await this.#log.appendDurable(encodeActivityFrame(frame));",
    "await this.#log.append(encodeActivityFrame(frame));",
  ),
  mutant(
    "write-before-hot",
    "1.3: a write waits until its region is hot",
    "volume/volume.ts",
    `        await activity.activate(region.first, region.last);
        this.onActivation();`,
    `        void activity.activate(region.first, region.last).then(() => this.onActivation(), () => undefined);
        this.chain.mark(granulesTouched(offsetBytes, lengthBytes).first, granulesTouched(offsetBytes, lengthBytes).count);
        return await this.#onDevice(action);`,
  ),
  mutant(
    "evict-busy-region",
    "1.3: no region is evicted while a write is in flight in it",
    "durable/region-table.ts",
    ".filter((entry) => entry.inFlight === 0);",
    '.filter((entry) => entry.state === "hot");',
  ),
  mutant(
    "evict-without-bits",
    "1.3: the bits of an evicted region are in the log before its slot is used again",
    "durable/activity-log.ts",
    "const evicted = victims.map(({ region }) => ({ region, bits: this.#bitsOf(region) }));",
    "const evicted = victims.map(({ region }) => ({ region, bits: new Uint8Array(REGION_BITS_BYTES) }));",
  ),
  mutant(
    "evict-late-snapshot",
    "1.3: an evicted region takes no writes once its bits are read",
    "durable/region-table.ts",
    '    for (const entry of victims) entry.state = "evicting";\n',
    "",
  ),
  mutant(
    "point-drops-hot-bits",
    "1.3: bits go only with a new generation that has them",
    "volume/volume-tracking.ts",
    "const hotBits = chain.tracked ? this.activity.hotBits() : [];",
    "const hotBits: RegionBits[] = [];",
  ),
  mutant(
    "checkpoint-copies-early",
    "1.3: a checkpoint's maps are read when the log that follows them has begun",
    "volume/volume-tracking.ts",
    `      await this.activity.checkpoint(number);
      const marks = this.#marksNoted; // in the same turn as the copies, which have them
      const written = this.#volume.chain.epochs.map((epoch) => this.#toWrite(epoch, serial));
      const nextEpoch = this.#volume.chain.nextId;`,
    `      const marks = this.#marksNoted;
      const written = this.#volume.chain.epochs.map((epoch) => this.#toWrite(epoch, serial));
      const nextEpoch = this.#volume.chain.nextId;
      await this.activity.checkpoint(number);`,
  ),
  mutant(
    "settle-forgets-marks",
    "1.3: marks that only the points log has are in a checkpoint before it goes",
    "volume/volume-tracking.ts",
    '    if (this.#marksKept < this.#marksNoted) return this.checkpoint("running");\n',
    "",
  ),
  // --- 1.4: start ----------------------------------------------------------------------------------------------------------
  mutant(
    "start-without-drain",
    "1.4: a start waits until no write is under way",
    "session/point.ts",
    "    await withinBarrier(host, Promise.all(closing));\n",
    "    void Promise.all(closing);\n",
  ),
  {
    name: "start-without-flush",
    rule: "1.4: the source is durable before the point is",
    edits: [
      {
        file: "src/engine/session/point.ts",
        find: "    await withinBarrier(host, Promise.all(sources.map((volume) => volume.flush())));\n",
        put: "",
      },
      {
        file: "src/engine/session/point.ts",
        find: "    await Promise.all(sources.map((volume) => volume.flush()));\n    // Under write load",
        put: "    // Under write load",
      },
    ],
  },
  mutant(
    "start-not-durable",
    "1.4: the record of a point is durable before its gates open",
    "session/points-log.ts",
    "await log.append(encodePoint(record, maps));\n    await log.sync();",
    "await log.append(encodePoint(record, maps));",
  ),
  mutant(
    "points-forgotten-early",
    "1.4: a point is forgotten only when the files of its sessions have it",
    "session/session-set.ts",
    "if (side instanceof CopySession) await side.checkpoint();",
    "if (side instanceof CopySession) void side.checkpoint().catch(() => undefined);",
  ),
  mutant(
    "difference-of-one-side",
    "1.4: a difference has what changed on either side",
    "session/point.ts",
    'const changed = session.changedSincePoint("both");',
    'const changed = session.changedSincePoint("source");',
  ),
  mutant(
    "difference-without-pending",
    "1.4: a new generation copies what was not copied yet",
    "session/point.ts",
    "    pending = session.missing();\n    const changed",
    '    pending = new PagedBitmap(host.ports.core, granuleCount, "empty");\n    const changed',
  ),
  mutant(
    "difference-without-uncommitted",
    "1.4: a new generation copies what is copied and not durable",
    "session/session.ts",
    "    const map = this.pending.clone();\n    map.union(this.uncommitted);",
    "    const map = this.pending.clone();",
  ),
  mutant(
    "copy-changes-nothing",
    "1.4: a copy that arrives changes its destination, for those who track it",
    "session/point.ts",
    "    destination.markLogicalChange(one.pending, one.record.destination);\n",
    "",
  ),
  // --- 1.4: copy -----------------------------------------------------------------------------------------------------------
  mutant(
    "record-before-data",
    "1.4: data is durable at the destination before the record that it is there",
    "session/session.ts",
    "    await this.destinationVolume.flush();\n    await this.durable",
    "    await this.durable",
  ),
  mutant(
    "record-not-durable",
    "1.4: the record is durable before either side is overwritten",
    "session/session-files.ts",
    `    await this.#log.append(encodeCopied(generation, runs));
    await this.#log.sync();`,
    "    await this.#log.append(encodeCopied(generation, runs));",
  ),
  mutant(
    "record-covers-later-data",
    "1.4: a record covers only data that was written before its sync began",
    "session/commit-queue.ts",
    `      this.#runs = [];
      try {
        if (runs.length > 0) await this.#commit(runs);`,
    `      try {
        if (runs.length > 0) await this.#commit(runs);
        if (this.#runs === runs) this.#runs = [];`,
  ),
  mutant(
    "flush-joins-running-round",
    "1.4: whoever waits for a commit joins the next round, not the one under way",
    "session/commit-queue.ts",
    `    this.#next ??= newRound();
    const { promise } = this.#next;
    this.#running ??= this.#run();
    return promise;`,
    `    if (this.#running) return this.#running;
    this.#next ??= newRound();
    const { promise } = this.#next;
    this.#running ??= this.#run();
    return promise;`,
  ),
  mutant(
    "write-passes-uncommitted",
    "1.4: a host write waits for the commit of what it overwrites",
    "session/session.ts",
    "return this.pending.anySet(run.first, run.count) || this.uncommitted.anySet(run.first, run.count);",
    "return this.pending.anySet(run.first, run.count);",
  ),
  mutant(
    "source-write-does-not-wait",
    "1.4: the source is overwritten only when its old content is at the destination",
    "volume/volume.ts",
    'if (run && session.state === "live" && session.blocksWrite(run)) preserving.push(preserve(session, run));',
    'if (run && session.state === "live" && session.blocksWrite(run)) void preserve(session, run);',
  ),
  mutant(
    "destination-write-does-not-wait",
    "1.4: a destination is overwritten only when the whole granule is there",
    "volume/volume.ts",
    'if (run && session.blocksWrite(run)) await session.copy(run, "durable");',
    'if (run && session.blocksWrite(run)) void session.copy(run, "durable");',
  ),
  mutant(
    "copy-without-lock",
    "1.4: two copies of a granule never overlap",
    "session/session.ts",
    `    const handle = await this.lock.acquire(run.first, run.count);
    try {
      if (this.state !== "live") return; // it may`,
    `    const handle = await new RangeLock().acquire(run.first, run.count);
    try {
      if (this.state !== "live") return; // it may`,
  ),
  mutant(
    "old-generation-counts",
    "1.4: records of an older generation are ignored",
    "session/session.ts",
    '    const over = () => this.state !== "live" || generation !== this.facts.generation;\n    if (over()) return;\n    await this.dest',
    '    const over = () => this.state !== "live";\n    if (over()) return;\n    await this.dest',
  ),
  mutant(
    "complete-before-durable",
    "1.4: a copy has finished only when all its data is durable",
    "session/session.ts",
    "    return this.pending.count > 0 || this.uncommitted.count > 0;\n  }\n\n  get copying",
    "    return this.pending.count > 0;\n  }\n\n  get copying",
  ),
  mutant(
    "end-not-durable",
    "1.4: the end of a session is durable before its source is released",
    "session/session-set.ts",
    "await session.durable.run(() => session.files.end({ ...session.record(), end: endOf(ended) }));",
    "void session.durable.run(() => session.files.end({ ...session.record(), end: endOf(ended) })).catch(() => undefined);",
  ),
  mutant(
    "fail-not-durable",
    "1.1: a copy has durably failed before a write goes uncovered",
    "session/session.ts",
    `      await this.files.checkpoint({ ...record, state: "failed", failure }, this.missing());
      this.facts.failure`,
    `      void this.files.checkpoint({ ...record, state: "failed", failure }, this.missing()).catch(() => undefined);
      this.facts.failure`,
  ),
  // --- 1.8 -----------------------------------------------------------------------------------------------------------------
  mutant(
    "superblock-one-slot",
    "1.8: the slot of a superblock that counts is never written to",
    "durable/superblock.ts",
    "      await this.#file.write((sequence % 2) * SUPERBLOCK_SLOT_BYTES, slot);",
    "      await this.#file.write(((sequence + 1) % 2) * SUPERBLOCK_SLOT_BYTES, slot);",
  ),
  mutant(
    "superblock-not-durable",
    "1.8: a superblock counts when it is durable",
    "durable/superblock.ts",
    `      await this.#file.write((sequence % 2) * SUPERBLOCK_SLOT_BYTES, slot);
      await this.#file.sync();`,
    "      await this.#file.write((sequence % 2) * SUPERBLOCK_SLOT_BYTES, slot);",
  ),
  mutant(
    "new-file-not-synced",
    "1.8: a new file is durable before it is renamed",
    "durable/replace-file.ts",
    "    await file.sync();\n    await files.rename",
    "    await files.rename",
  ),
  mutant(
    "new-name-not-synced",
    "1.8: the name of a new file is durable before it is relied on",
    "durable/replace-file.ts",
    "    await files.syncDirectory(directoryOf(path));\n    await file.close();",
    "    await file.close();",
  ),
  mutant(
    "torn-tail-kept",
    "1.8: a torn tail is cut off before the log goes on",
    "durable/frame-log.ts",
    "    await this.#file.truncate(this.#end.offsetBytes);\n    await this.#file.sync();\n    this.#uncut",
    "    this.#uncut",
  ),
  mutant(
    "refused-frame-left",
    "1.8: a frame that was refused for want of space is never replayed",
    "durable/frame-log.ts",
    "        await this.#file.truncate(this.#end.offsetBytes);\n",
    "",
  ),
  mutant(
    "frame-not-checked",
    "1.8: a frame whose checksum is wrong ends the log",
    "durable/frame-replay.ts",
    "return frameChecksum(logChecksum, bytes, payload) === header.checksum ? { header, payload } : undefined;",
    "return { header, payload };",
  ),
  mutant(
    "old-maps-removed-first",
    "1.8: files go only when the superblock no longer names them",
    "volume/volume-tracking.ts",
    `      await this.#super.store({ uid: this.#volume.uid, nextEpoch, log: number, serial, inUse, epochs });`,
    `      for (const name of await this.#files.list(directory))
        if (name.endsWith(".map") && !epochs.some(([id, , , at]) => name === mapFileOf(id, at)))
          await this.#files.remove(\`\${directory}/\${name}\`);
      await this.#super.store({ uid: this.#volume.uid, nextEpoch, log: number, serial, inUse, epochs });`,
  ),
  // --- 1.10 ----------------------------------------------------------------------------------------------------------------
  mutant(
    "found-log-not-synced",
    "1.10: a log that is found is durable before anybody acts on it",
    "durable/frame-log.ts",
    "      await file.sync();\n      const { number, checksum, end: found }",
    "      const { number, checksum, end: found }",
  ),
  mutant(
    "found-superblock-not-synced",
    "1.10: a superblock that is found is durable before anybody acts on it",
    "durable/superblock.ts",
    "      await file.sync();\n      const slots",
    "      const slots",
  ),
  {
    name: "torn-slot-left",
    rule: "1.8: a torn slot is written anew before anything is done on the strength of the other one",
    edits: [
      { file: "src/engine/session/session-files.ts", find: "    await this.#super.heal();\n", put: "" },
      { file: "src/engine/volume/volume-tracking.ts", find: "    await this.#super.heal();\n", put: "" },
    ],
  },
  mutant(
    "found-names-not-synced",
    "1.10: names that are found are durable before anybody acts on them",
    "session/session-recovery.ts",
    "    // After a kill the names need not be durable yet (data-safety 1.10 rule 3).\n    await files",
    "    void files",
  ),
  mutant(
    "hot-regions-forgotten",
    "1.10: after an unclean stop every granule of a hot region counts as changed",
    "volume/volume-tracking.ts",
    `        setRegion(last, region);
        last.trust`,
    "        last.trust",
  ),
  mutant(
    "points-not-replayed",
    "1.10: a point that is only in the points log has happened",
    "session/session-recovery.ts",
    "const fromPoint = fired && own && fired.record.generation > own.generation ? fired : undefined;",
    "const fromPoint = fired && own && own.generation < 0 ? fired : undefined;",
  ),
  mutant(
    "copied-log-not-replayed",
    "1.10: logs are replayed over the last checkpoint",
    "session/session-files.ts",
    "      for (const run of runs) missing.clearRange(run.first, run.count);\n",
    "",
  ),
];

/** What a world must have for histories in it to notice. */
const NEEDS: Readonly<Record<string, readonly Feature[]>> = {
  "start-without-flush": ["power-loss"],
};

/** Histories do not meet these, or hardly ever, or another rule stands behind: what notices them instead. */
const NOTICED_BY: Readonly<Record<string, NamedTest>> = {
  "checkpoint-copies-early": {
    file: "test/engine/checkpoint-order.test.ts",
    title: "data-safety 1.3: a region that is evicted before the log",
  },
  "points-forgotten-early": {
    file: "test/engine/point-faults.test.ts",
    title: "a point whose map is in a file is whole when only the points log knows of it",
  },
  "old-generation-counts": {
    file: "test/engine/old-generation.test.ts",
    title: "data-safety 1.4: a commit round of the run before",
  },
  "found-names-not-synced": {
    file: "test/engine/found-names.test.ts",
    title: "data-safety 1.10: the names in sessions/c1 are durable",
  },
  "torn-tail-kept": {
    file: "test/durable/frame-log.test.ts",
    title: "damage at or below a durable frame is corruption",
  },
  "refused-frame-left": {
    file: "test/durable/frame-log-order.test.ts",
    title: "out of space: the failed frames are gone durably",
  },
  "frame-not-checked": { file: "test/durable/frame-log-order.test.ts", title: "800 power losses and kills" },
  "found-superblock-not-synced": {
    file: "test/durable/superblock.test.ts",
    title: "600 power losses at random instants",
  },
  "next-log-not-named": {
    file: "test/engine/logs-continued.test.ts",
    title: "no room for the name of the next log, then a kill",
  },
  "log-ends-not-compared": {
    file: "test/engine/clean-stop-damage.test.ts",
    title: "after a kill: a copied log that is shorter",
  },
  "directory-not-emptied": {
    file: "test/engine/logs-continued.test.ts",
    title: "a removal that was cut off leaves a log, which does not agree",
  },
  "torn-slot-left": {
    file: "test/engine/damaged-slot.test.ts",
    title: "data-safety 1.8: a damaged slot of sessions/c1/super",
  },
  "failed-flush-forgiven": {
    file: "test/engine/unavailable.test.ts",
    title: "data-safety 1.2: a failed sync of a destination fails at once",
  },
  "flush-failure-keeps-volume": {
    file: "test/engine/unavailable.test.ts",
    title: "data-safety 1.2: a failed sync of a destination fails at once",
  },
  "final-failure-ignored": {
    file: "test/engine/metadata-loss.test.ts",
    title: "a failed sync of ^points- ends the engine",
  },
  "intent-not-durable": {
    file: "test/domain/full-store.test.ts",
    title: "a start whose number cannot be recorded is refused",
  },
};

export const MUTANTS: readonly Mutant[] = [...ENGINE_MUTANTS, ...IO_MUTANTS, ...DOMAIN_MUTANTS].map((mutant) => ({
  ...mutant,
  needs: [...(mutant.needs ?? []), ...(NEEDS[mutant.name] ?? [])],
  noticedBy: NOTICED_BY[mutant.name],
}));
