/** Grammar of the commands about the box, the program and the shell. */
import { Argument, type Command } from "commander";
import { action } from "./parts.ts";

export function addBoxCommands(program: Command): void {
  addServe(program);
  addChecks(program);
  addScrub(program);
  addState(program);
  addProgram(program);
}

function addServe(program: Command): void {
  program
    .command("serve")
    .description("run a box: the server that owns volumes")
    .option(
      "--data <directory>",
      "directory of the box's state; the API listens at unix:DIR/run/api.sock unless --address says otherwise",
    )
    .option("--nbd <address>", "where NBD is served: unix:PATH, HOST:PORT or none (default unix:DIR/run/nbd.sock)")
    .option("--box <number>", "number of the box: the g of volume names")
    .option("--log-level <level>", "debug, info, warn, error or silent")
    .option("--scrub <when>", "weekly (default) or off: whether the box reads its own metadata again by itself")
    .allowUnknownOption() // the server reads its own arguments; these are here to be explained and completed
    .allowExcessArguments()
    .action(async () => (await import("../commands/serve.ts")).serve(process.argv, process.env));
}

function addChecks(program: Command): void {
  program
    .command("fsck")
    .description("check the data directory of a box that does not run: every file of its own state")
    .option("--data <directory>", "directory of the box's state (or TIDEMARK_DATA)")
    .option("--repair", "make durable what the next start would make of it; nothing is invented")
    .option("--accept-database", "take a db that is older than the state, or that the state has lost its record of")
    .action(
      action(async (context, options: { data?: string; repair?: boolean; acceptDatabase?: boolean }) =>
        (await import("../commands/fsck.ts")).fsck(context, options),
      ),
    );
}

function addScrub(program: Command): void {
  program
    .command("scrub")
    .description(
      "read the box's own metadata again from the disk while it runs, and put right what memory knows better",
    )
    .argument("[volume]", "only the files of this volume and its copies")
    .action(
      action(async (context, volume: string | undefined) =>
        (await import("../commands/scrub.ts")).scrub(context, volume ?? ""),
      ),
    );
}

function addState(program: Command): void {
  program
    .command("status")
    .description("the box: identity, addresses, totals")
    .action(action(async (context) => (await import("../commands/status.ts")).status(context)));
  program
    .command("doctor")
    .description("look for what is wrong or missing, here and in the box, and say what to do")
    .action(action(async (context) => (await import("../commands/doctor.ts")).doctor(context)));
  program
    .command("events")
    .description("what happened, oldest first")
    .option("--follow", "go on with events as they happen")
    .option("--subject <name>", "only events of this volume, export or copy")
    .action(
      action(async (context, options: { follow?: boolean; subject?: string }) =>
        (await import("../commands/events.ts")).events(context, options),
      ),
    );
}

function addProgram(program: Command): void {
  program
    .command("completion")
    .description("print the completion script of a shell")
    .addArgument(new Argument("<shell>", "shell").choices(["bash", "zsh", "fish"]))
    .addHelpText(
      "after",
      "\nbash: source <(tidemark completion bash)\nzsh:  source <(tidemark completion zsh)\nfish: tidemark completion fish | source",
    )
    .action(async (shell: "bash" | "zsh" | "fish") => (await import("../commands/completion.ts")).printScript(shell));
  program
    .command("version")
    .description("versions of this program and of the server")
    .action(action(async (context) => (await import("../commands/version.ts")).version(context)));
  program
    .command("help")
    .description("explain a command, or a topic: exit-codes, json")
    .argument("[command...]", "command or topic")
    .action(async (words: string[]) => (await import("../commands/help.ts")).help(program, words));
}
