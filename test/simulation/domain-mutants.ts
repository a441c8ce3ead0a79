/**
 * The box with one rule of its rows left out (data-safety 1.9), as changes of a copy of the domain's and the store's source.
 * The same form as the engine's mutants (mutants.ts).
 */
import type { Mutant } from "./mutants.ts";

function mutant(name: string, rule: string, file: string, ...edits: readonly (readonly [string, string])[]): Mutant {
  return { name, rule, edits: edits.map(([find, put]) => ({ file: `src/${file}`, find, put })), needs: ["whole-box"] };
}

export const DOMAIN_MUTANTS: readonly Mutant[] = [
  // --- create --------------------------------------------------------------------------------------------------------------
  mutant("row-before-files", "1.9: a copy has its row only when its files are durable", "domain/copies.ts", [
    "      return this.#fire({ numbers, targets }, (engine) => engine.startSessions(requests), record, intent);",
    `      const early = requests.map(({ source, destination, kind }, index) => ({
        table: "copies",
        put: { number: numbers.first + index, source, destination, kind, phase: "copying", createdMs: 0, pointMs: 0, generation: 1 },
      }));
      await this.#context.journal.commit(early as unknown as Change[], []);
      return this.#fire({ numbers, targets }, (engine) => engine.startSessions(requests), record, intent);`,
  ]),
  mutant(
    "files-not-adopted",
    "1.9: files without a row are taken over at the start",
    "domain/copy-rows.ts",
    ["    else if (row === undefined) corrections.push({ changes: [put], events: [adoptedEvent(session)] });\n", ""],
    ["      const what = differences(row, now);", '      const what = row === undefined ? "" : differences(row, now);'],
    ["else if (row.phase !== now.phase)", "else if (row !== undefined && row.phase !== now.phase)"],
  ),
  mutant(
    "row-not-corrected",
    "1.9: the session's files are the authority, and a row that differs is put right",
    "domain/copy-rows.ts",
    [
      'if (what !== "") corrections.push({ changes: [put], events: [correctedEvent(session, what)] });\n      else ',
      "",
    ],
  ),
  mutant(
    "number-not-durable",
    "1.9: a number is durable as given out before the engine hears it",
    "domain/copy-numbers.ts",
    ["    await commit(changes);\n", '    await commit(changes.filter(({ table }) => table !== "counters"));\n'],
  ),
  // --- delete --------------------------------------------------------------------------------------------------------------
  mutant(
    "row-ends-before-session",
    "1.9: the end of a copy is durable in its superblock before its row goes",
    "domain/copies.ts",
    [
      'const ended = await this.#intending("cancel", [id], intent, () => engine.cancelSession(id));',
      `const live = await engine.sessionStatus(id);
      await this.#recordEnd(endedRowOf({ ...live, phase: "cancelled" }, live.phase !== "failed" && live.pendingGranules === 0), []);
      const ended = await this.#intending("cancel", [id], intent, () => engine.cancelSession(id));`,
    ],
  ),
  mutant(
    "forgotten-before-recorded",
    "1.9: the files of a copy that has ended go only when its end is a row",
    "domain/copies.ts",
    [
      "    const end = this.#rememberEnd(row);\n    await this.#context.journal.keep([...end.changes, ...changes], end.events, end.stored);",
      `    const end = this.#rememberEnd(row);
    if (end.changes.length > 0) await this.#context.engine.forgetSession(copyId(row.number));
    await this.#context.journal.keep([...end.changes, ...changes], end.events);`,
    ],
    [
      "void this.#context.journal.keep(end.changes, end.events, end.stored)",
      `{
      const forgotten = end.changes.length > 0 ? this.#context.engine.forgetSession(copyId(row.number)) : undefined;
      void forgotten?.then(() => this.#context.journal.keep(end.changes, end.events), () => undefined);
    }`,
    ],
  ),
  mutant(
    "volume-goes-before-row",
    "1.9: a volume that is taken out stays in the engine's hands unless its row has gone",
    "domain/volumes.ts",
    [
      "      await this.#openAgain(row);\n      throw error;\n    }\n    if (file",
      "      throw error;\n    }\n    if (file",
    ],
  ),
  // --- requests ------------------------------------------------------------------------------------------------------------
  mutant(
    "answered-before-recorded",
    "1.1, 1.9: a request is answered when its row, its events and its answer are durable",
    "domain/copies.ts",
    ["    await recorded;\n", "    void recorded;\n"],
  ),
  mutant("end-answered-before-recorded", "1.1, 1.9: an end is answered when it is recorded", "domain/copies.ts", [
    "      await this.#recordEnd(endedRowOf(ended.session, ended.destinationUsable), record(ended));\n      return ended;",
    "      void this.#recordEnd(endedRowOf(ended.session, ended.destinationUsable), record(ended));\n      return ended;",
  ]),
  mutant(
    "intent-not-durable",
    "1.9: what a request is about to do is durable before the engine does it",
    "domain/copies.ts",
    [
      "      await this.#numbers.store((changes) => journal.commit([...changes, ...begun], []));",
      "      void this.#numbers.store((changes) => journal.commit([...changes, ...begun], [])).catch(() => undefined);",
    ],
  ),
  mutant(
    "intents-not-decided",
    "1.9: a start decides what cut-off requests have done before anything changes it",
    "domain/box.ts",
    [
      "    await journal.commit(this.#intents.decideAll({ sessions, ended, hasVolume }, outOfService), []);\n",
      "    void [sessions, ended, hasVolume, outOfService];\n",
    ],
  ),
  // --- the store -----------------------------------------------------------------------------------------------------------
  mutant("refused-commit-comes-back", "1.9: a commit that was refused never shows later", "store/commit-line.ts", [
    "      await this.#engine.batch(this.#failed.undo);\n",
    "",
  ]),
  mutant("events-of-failed-commit-told", "1.1: an event that anybody has seen is durable", "domain/journal.ts", [
    '      for (const event of prepared) event.state = "dropped";',
    '      for (const event of prepared) event.state = "durable";',
  ]),
];
