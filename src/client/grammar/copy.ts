/** Grammar of `tidemark copy`. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { action, copyOperand, extentOperand } from "./parts.ts";

export interface CopyStartOptions {
  readonly kind: string;
  readonly pace?: string;
  readonly wait?: boolean;
}

const KIND_WORDS = ["opc", "quickopc"];

/** The copy function; upper and lower case are the same. */
function kindOption(): Option {
  return new Option("--kind <kind>", "copy function: opc or quickopc")
    .choices(KIND_WORDS)
    .argParser((text: string) => {
      const word = text.toLowerCase();
      if (!KIND_WORDS.includes(word)) throw new InvalidArgumentError(`Allowed choices are ${KIND_WORDS.join(", ")}.`);
      return word;
    })
    .makeOptionMandatory();
}

export function addCopyCommands(program: Command): void {
  const copy = program.command("copy").description("copies of one instant, from volume to volume").helpCommand(false);
  addStarting(copy);
  addEnding(copy);
  addLooking(copy);
}

function addStarting(copy: Command): void {
  copy
    .command("start")
    .description("fire one point for all pairs: the destinations hold what the sources have now")
    .argument("<pairs...>", "SOURCE DESTINATION [SOURCE DESTINATION ...]")
    .addOption(kindOption())
    .option("--pace <1..15>", "1 gentle, 15 as fast as it goes (default 15)")
    .option("--wait", "wait until everything is copied")
    .action(
      action(async (context, pairs: string[], options: CopyStartOptions) =>
        (await import("../commands/copy-start.ts")).copyStart(context, pairs, options),
      ),
    );
  copy
    .command("restart")
    .description("run sessions again at one instant; QuickOPC copies only what differs")
    .argument("<ids...>", "copies, such as c12")
    .option("--wait", "wait until everything is copied")
    .action(
      action(async (context, ids: string[], options: { wait?: boolean }) =>
        (await import("../commands/copy-restart.ts")).copyRestart(context, ids, options),
      ),
    );
  copy
    .command("explain")
    .description("what `copy start` would copy, and why; changes nothing")
    .addArgument(extentOperand("source"))
    .addArgument(extentOperand("destination"))
    .addOption(kindOption())
    .action(
      action(async (context, source: string, destination: string, options: { kind: string }) =>
        (await import("../commands/copy-explain.ts")).copyExplain(context, { source, destination, kind: options.kind }),
      ),
    );
  copy
    .command("pace")
    .description("change how fast a session copies")
    .addArgument(copyOperand())
    .argument("<pace>", "1 gentle, 15 as fast as it goes")
    .action(
      action(async (context, id: string, pace: string) =>
        (await import("../commands/copy-pace.ts")).copyPace(context, id, pace),
      ),
    );
}

function addEnding(copy: Command): void {
  copy
    .command("cancel")
    .description("end a session; while copying its destination is left unusable")
    .addArgument(copyOperand())
    .action(
      action(async (context, id: string) => (await import("../commands/copy-cancel.ts")).copyCancel(context, id)),
    );
  copy
    .command("stop-tracking")
    .description("end tracking only: what is being copied is finished")
    .addArgument(copyOperand())
    .action(
      action(async (context, id: string) =>
        (await import("../commands/copy-stop-tracking.ts")).copyStopTracking(context, id),
      ),
    );
}

function addLooking(copy: Command): void {
  copy
    .command("list")
    .description("sessions")
    .option("--all", "also those that have ended and are still remembered")
    .option("--volume <volume>", "only those that enter or leave this volume or partition")
    .action(
      action(async (context, options: { all?: boolean; volume?: string }) =>
        (await import("../commands/copy-list.ts")).copyList(context, options),
      ),
    );
  copy
    .command("get")
    .description("one session")
    .addArgument(copyOperand())
    .action(action(async (context, id: string) => (await import("../commands/copy-get.ts")).copyGet(context, id)));
  copy
    .command("watch")
    .description("follow a session until it has finished copying; a line for each change")
    .addArgument(copyOperand())
    .option("--keep-following", "go on while a QuickOPC session tracks")
    .action(
      action(async (context, id: string, options: { keepFollowing?: boolean }) =>
        (await import("../commands/copy-watch.ts")).copyWatch(context, id, options),
      ),
    );
}
