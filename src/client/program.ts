/**
 * The command tree: which commands there are, with their operands and options.
 *
 * Role: grammar only. What a command does is in commands/, one file a verb, loaded when it runs.
 */
import { Command, Option } from "commander";
import { DEFAULT_ADDRESS } from "./address.ts";
import { addBoxCommands } from "./grammar/box.ts";
import { addCopyCommands } from "./grammar/copy.ts";
import { addExportCommands } from "./grammar/export.ts";
import { addVolumeCommands } from "./grammar/volume.ts";
import { clientVersion } from "./version.ts";

export function createProgram(): Command {
  const program = new Command("tidemark")
    .description("Point-in-time copies of Linux volumes that never copy more than what changed.")
    .version(clientVersion(), "-V, --version", "print the version")
    .helpOption("--help", "explain a command")
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // main.ts reports usage errors in the one form
    .configureHelp({ sortSubcommands: false, showGlobalOptions: true })
    .addOption(
      new Option(
        "--address <address>",
        `server: unix:PATH or HOST:PORT (default: the box of TIDEMARK_DATA, or ${DEFAULT_ADDRESS})`,
      ).env("TIDEMARK_ADDRESS"),
    )
    .option("--json", "print the RPC's message as JSON; lists print one object a line")
    .option("--timeout <time>", "give up after this time, such as 30s or 5m")
    .option("--request-id <id>", "identity of a change, to repeat it safely");
  addVolumeCommands(program);
  addExportCommands(program);
  addCopyCommands(program);
  addBoxCommands(program);
  return program;
}
