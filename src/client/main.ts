#!/usr/bin/env node
/** The `tidemark` program. */
import { CommanderError } from "commander";
import { EXIT_OK, EXIT_USAGE, Failure } from "./failure.ts";
import { endWhenReaderGoes, report } from "./perform.ts";
import { createProgram } from "./program.ts";

endWhenReaderGoes();
const json = process.argv.includes("--json");
try {
  if (process.argv[2] === "complete") {
    const { printCandidates } = await import("./commands/completion.ts");
    await printCandidates(createProgram(), process.argv.slice(2));
  } else await createProgram().parseAsync();
} catch (error) {
  process.exitCode = error instanceof CommanderError ? afterCommander(error) : report(error, json);
}

/** Commander throws for help and version too; those have been printed and are no errors. */
function afterCommander(error: CommanderError): number {
  if (error.exitCode === EXIT_OK) return EXIT_OK;
  if (error.code === "commander.help") return EXIT_USAGE;
  const [first = error.message, suggestion = ""] = error.message.replace(/^error: /, "").split("\n");
  const meant = /^\(Did you mean (?:one of )?(.+)\?\)$/.exec(suggestion)?.[1];
  const help = `${typedCommand()} --help`;
  return report(new Failure("USAGE", first, { hint: meant === undefined ? help : `${meant}, or: ${help}` }), json);
}

/** The command that was meant, as far as it was typed right: `tidemark volume get`. */
function typedCommand(): string {
  let command = createProgram();
  const path = [command.name()];
  for (const word of process.argv.slice(2)) {
    const next = command.commands.find((candidate) => candidate.name() === word);
    if (next === undefined) continue;
    path.push(word);
    command = next;
  }
  return path.join(" ");
}
