/** Grammar of `tidemark export`. */
import type { Command } from "commander";
import { perform } from "../perform.ts";

export function addExportCommands(program: Command): void {
  const group = program.command("export").description("volumes offered to hosts over NBD").helpCommand(false);
  group
    .command("add")
    .description("offer a volume or partition; prints its NBD URI")
    .argument("<volume>", "name or label of a volume or partition")
    .option("--read-only", "clients may only read")
    .action((name: string, options: { readOnly?: boolean }, command: Command) =>
      perform(command, async (context) =>
        (await import("../commands/export-add.ts")).exportAdd(context, name, options),
      ),
    );
  group
    .command("list")
    .description("all exports")
    .action((_options: object, command: Command) =>
      perform(command, async (context) => (await import("../commands/export-list.ts")).exportList(context)),
    );
  group
    .command("get")
    .description("one export")
    .argument("<export>", "name or label")
    .action((name: string, _options: object, command: Command) =>
      perform(command, async (context) => (await import("../commands/export-get.ts")).exportGet(context, name)),
    );
  group
    .command("remove")
    .description("stop offering a volume")
    .argument("<export>", "name or label")
    .option("--force", "disconnect clients")
    .action((name: string, options: { force?: boolean }, command: Command) =>
      perform(command, async (context) =>
        (await import("../commands/export-remove.ts")).exportRemove(context, name, options),
      ),
    );
}
