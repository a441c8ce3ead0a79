/** Grammar of `tidemark export`. */
import type { Command } from "commander";
import { action, exportOperand, extentOperand } from "./parts.ts";

export function addExportCommands(program: Command): void {
  const group = program.command("export").description("volumes offered to hosts over NBD").helpCommand(false);
  group
    .command("add")
    .description("offer a volume or partition; prints its NBD URI")
    .addArgument(extentOperand())
    .option("--read-only", "clients may only read")
    .action(
      action(async (context, name: string, options: { readOnly?: boolean }) =>
        (await import("../commands/export-add.ts")).exportAdd(context, name, options),
      ),
    );
  group
    .command("list")
    .description("all exports")
    .action(action(async (context) => (await import("../commands/export-list.ts")).exportList(context)));
  group
    .command("get")
    .description("one export")
    .addArgument(exportOperand())
    .action(
      action(async (context, name: string) => (await import("../commands/export-get.ts")).exportGet(context, name)),
    );
  group
    .command("remove")
    .description("stop offering a volume")
    .addArgument(exportOperand())
    .option("--force", "disconnect clients")
    .action(
      action(async (context, name: string, options: { force?: boolean }) =>
        (await import("../commands/export-remove.ts")).exportRemove(context, name, options),
      ),
    );
}
