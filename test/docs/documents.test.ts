/** What the documents say, against the code: tables that would go stale, and commands that must exist. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test from "ava";
import type { Command } from "commander";
import { EXIT_CODES } from "../../src/client/failure.ts";
import { createProgram } from "../../src/client/program.ts";
import { type SessionEvent, type SessionState, TRANSITIONS } from "../../src/engine/session/transitions.ts";
import { ERROR_TABLE } from "../../src/server/error-table.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const DOCUMENTS = ["README.md", "CONTRIBUTING.md", ...readdirSync(join(ROOT, "docs")).map((name) => `docs/${name}`)]
  .filter((path) => path.endsWith(".md"))
  .map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));

function textOf(path: string): string {
  return DOCUMENTS.find((document) => document.path === path)?.text ?? "";
}

/** Cells of the table rows below a heading, without the title and its line. */
function tableBelow(text: string, heading: string): string[][] {
  const section = text.split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

test("docs/api.md lists every error code with its status", (t) => {
  const listed = Object.fromEntries(
    tableBelow(textOf("docs/api.md"), "Errors").map(([code = "", status = ""]) => [code.replaceAll("`", ""), status]),
  );
  const expected = Object.fromEntries(Object.entries(ERROR_TABLE).map(([code, { status }]) => [code, status]));
  t.deepEqual(listed, expected);
});

test("docs/cli.md lists every exit code with its meaning", (t) => {
  t.deepEqual(
    tableBelow(textOf("docs/cli.md"), "Exit codes"),
    EXIT_CODES.map(([code, meaning]) => [String(code), meaning]),
  );
});

const OPC_EVENTS: readonly SessionEvent[] = [
  "start-opc",
  "start-quickopc",
  "restart",
  "copied",
  "error",
  "stop-tracking",
  "cancel",
];

/** What a cell of the documents must say at least: where it leads, or that it does not. */
function agrees(cell: string, from: SessionState, event: SessionEvent): boolean {
  const transition = TRANSITIONS[from][event];
  if (transition === undefined) return cell === "" || cell === "refused";
  const [kind = "", phase = ""] = transition.to.split("-");
  if (transition.to === "none") return cell.startsWith("none");
  const says = transition.copies === "everything" ? /everything/ : /^(?!.*everything)/;
  return (
    cell.includes(phase) && says.test(cell) && (kind !== "opc" || from.startsWith("opc") === !cell.includes("OPC"))
  );
}

test("docs/opc.md shows the states of the transition table", (t) => {
  const rows = tableBelow(textOf("docs/opc.md"), "States");
  t.deepEqual(
    rows.map(([state]) => state),
    ["none", "copying", "failed"],
  );
  for (const [state = "", ...cells] of rows) {
    if (state === "none") continue; // half of that row is in quickopc.md
    OPC_EVENTS.forEach((event, index) => {
      const cell = cells[index] ?? "";
      t.true(agrees(cell, `opc-${state}` as SessionState, event), `${state}, ${event}: "${cell}"`);
    });
  }
});

test("docs/quickopc.md shows the states of the transition table", (t) => {
  const columns: readonly (readonly SessionEvent[])[] = [
    ["start-quickopc", "restart"],
    ["start-opc"],
    ["copied"],
    ["error"],
    ["stop-tracking"],
    ["cancel"],
  ];
  const rows = tableBelow(textOf("docs/quickopc.md"), "States");
  t.deepEqual(
    rows.map(([state]) => state),
    ["none", "copying", "tracking", "failed"],
  );
  for (const [state = "", ...cells] of rows) {
    if (state === "none") continue;
    columns.forEach((events, index) => {
      const cell = cells[index] ?? "";
      for (const event of events)
        t.true(agrees(cell, `quick-${state}` as SessionState, event), `${state}, ${event}: "${cell}"`);
    });
    t.is(cells[6]?.startsWith("a restore"), TRANSITIONS[`quick-${state}` as SessionState].restore !== undefined, state);
    t.is(cells[7], "refused");
  }
});

/** The command that words name, as far as they do: `copy start a b` is `copy start`. */
function commandOf(words: readonly string[]): { readonly command: Command; readonly rest: readonly string[] } {
  let command: Command = createProgram();
  let used = 0;
  for (const word of words) {
    const next = command.commands.find((candidate) => candidate.name() === word);
    if (next === undefined) break;
    command = next;
    used++;
  }
  return { command, rest: words.slice(used) };
}

test("every `tidemark` command of the documents exists, with its options", (t) => {
  const globals = new Set([...createProgram().options.map(({ long }) => long), "--help"]);
  const shown = DOCUMENTS.flatMap(({ path, text }) =>
    [...text.matchAll(/(?:^\$ (?:npx )?|[$;&|(`] ?(?:npx )?|^)(tidemark [a-z][^`|;)\n]*)/gm)].map((match) => ({
      path,
      line: match[1] ?? "",
    })),
  );
  t.true(shown.length > 60, "the commands were found");
  for (const { path, line } of shown) {
    const words = line.split(/\s+/).slice(1);
    const { command, rest } = commandOf(words);
    const noun = command.commands.length > 0 && rest[0] !== undefined && !rest[0].startsWith("-");
    t.false(noun, `${path}: "${line}": no such command`);
    const options = new Set([...globals, ...command.options.map(({ long }) => long)]);
    for (const option of line.match(/--[a-z-]+/g) ?? [])
      if (command.name() !== "help") t.true(options.has(option), `${path}: "${line}" has no ${option}`);
  }
});
