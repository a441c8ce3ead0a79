/**
 * The engine with one rule left out that is about the I/O of hosts, about starts and about stops: the same form as mutants.ts.
 */
import type { Mutant } from "./mutants.ts";

function mutant(name: string, rule: string, file: string, find: string, put: string): Mutant {
  return { name, rule, edits: [{ file: `src/engine/${file}`, find, put }] };
}

export const IO_MUTANTS: readonly Mutant[] = [
  mutant(
    "host-flush-does-nothing",
    "1.2: a flush that is answered has made durable what was answered before it",
    "volume/volume.ts",
    "      await device.flush();\n    } catch (error) {\n      // After",
    "      await Promise.resolve();\n    } catch (error) {\n      // After",
  ),
  mutant(
    "flush-failure-keeps-volume",
    "1.2: after a failed sync a volume is not used until it is opened again",
    "volume/volume.ts",
    "      if (device === this.#device) this.fail(error);\n      throw error;\n    }\n  }\n\n  // --- looking",
    "      throw error;\n    }\n  }\n\n  // --- looking",
  ),
  mutant(
    "write-not-marked",
    "1.3: a write marks its granules before it is carried out",
    "volume/volume.ts",
    "        this.chain.mark(granules.first, granules.count);\n        await this.#onDevice(action);",
    "        await this.#onDevice(action);",
  ),
  mutant(
    "inline-write-not-marked",
    "1.3: so does one that is carried out at once",
    "volume/volume.ts",
    "      this.chain.mark(granules.first, granules.count);\n    }\n    return device.tryWrite",
    "    }\n    return device.tryWrite",
  ),
  mutant(
    "lower-slot-wins",
    "1.8: of two whole slots of a superblock the newer one counts",
    "durable/superblock.ts",
    "even.sequence > odd.sequence ? even : odd",
    "even.sequence < odd.sequence ? even : odd",
  ),
  mutant(
    "stamps-kept",
    "1.10: what a clean stop has noted goes before anything is written",
    "recovery.ts",
    "  await storeStamps(files, unseen);\n",
    "",
  ),
  mutant(
    "clean-stop-stays-hot",
    "1.10: nothing is hot any more after a clean stop",
    "volume/volume-tracking.ts",
    '      if (mode === "clean") await this.activity.evictAll();\n',
    "",
  ),
  mutant(
    "stop-without-flush",
    "1.10: a clean stop makes the volumes durable",
    "volume/volume-set.ts",
    "    if (volume.online) await volume.flush();\n",
    "",
  ),
  mutant(
    "next-log-not-named",
    "1.8: the log that follows is named, durably, in the one before it, before it is in use",
    "durable/activity-log.ts",
    'await old.appendDurable(encodeActivityFrame({ type: "continued", number }));',
    'void old.append(encodeActivityFrame({ type: "continued", number })).catch(() => undefined);',
  ),
  mutant(
    "log-ends-not-compared",
    "1.8: a log that ends before its end was noted is damaged",
    "durable/frame-replay.ts",
    "  requireEnd(file.path, expected, end);\n",
    "",
  ),
  mutant(
    "directory-not-emptied",
    "1.8: nothing of an earlier life of a volume is left when its tracking begins",
    "volume/volume-tracking.ts",
    "    await emptyDirectory(files, directory);\n",
    "",
  ),
];
