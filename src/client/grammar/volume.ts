/** Grammar of `tidemark volume` and `tidemark partition`. */
import type { Command } from "commander";
import { action, extentOperand, volumeOperand } from "./parts.ts";

export function addVolumeCommands(program: Command): void {
  const volume = program
    .command("volume")
    .description("volumes of the box, their bytes and what changed on them")
    .helpCommand(false);
  addRegistration(volume);
  addLooking(volume);
  addChanging(volume);
  addAttachment(volume);
  addBytes(volume);
  const partition = program.command("partition").description("partitions inside a volume").helpCommand(false);
  addPartitionList(partition.command("list"));
}

function addRegistration(volume: Command): void {
  volume
    .command("register")
    .description("take an existing image file or block device into the box; prints its name")
    .argument("<path>", "image file or block device")
    .option("--lu <number>", "LU number (default: the lowest free one)")
    .option("--label <label>", "free name that works wherever names do")
    .action(
      action(async (context, path: string, options: { lu?: string; label?: string }) =>
        (await import("../commands/volume-register.ts")).volumeRegister(context, path, options),
      ),
    );
  volume
    .command("create")
    .description("make a sparse image file and register it; prints its name")
    .requiredOption("--size <size>", "size, such as 4GiB")
    .requiredOption("--path <path>", "file to create")
    .option("--lu <number>", "LU number (default: the lowest free one)")
    .option("--label <label>", "free name that works wherever names do")
    .action(
      action(async (context, options: { size: string; path: string; lu?: string; label?: string }) =>
        (await import("../commands/volume-create.ts")).volumeCreate(context, options),
      ),
    );
}

function addLooking(volume: Command): void {
  volume
    .command("list")
    .description("all volumes")
    .action(action(async (context) => (await import("../commands/volume-list.ts")).volumeList(context)));
  volume
    .command("get")
    .description("one volume with its epochs and counters")
    .addArgument(volumeOperand())
    .action(
      action(async (context, name: string) => (await import("../commands/volume-get.ts")).volumeGet(context, name)),
    );
  addPartitionList(volume.command("partitions"));
  volume
    .command("changes")
    .description("extents changed since an epoch: offset and length in bytes, one a line")
    .addArgument(extentOperand())
    .requiredOption("--since <epoch>", "first epoch to include, as `volume get` shows them")
    .option("--until <epoch>", "first epoch not to include (default: everything up to now)")
    .action(
      action(async (context, name: string, options: { since: string; until?: string }) =>
        (await import("../commands/volume-changes.ts")).volumeChanges(context, name, options),
      ),
    );
}

function addPartitionList(command: Command): void {
  command
    .description("partitions of a volume, and whether they can be copied")
    .addArgument(volumeOperand())
    .action(
      action(async (context, name: string) =>
        (await import("../commands/partition-list.ts")).partitionList(context, name),
      ),
    );
}

function addChanging(volume: Command): void {
  volume
    .command("resize")
    .description("change the size of a volume")
    .addArgument(volumeOperand())
    .option("--size <size>", "new size (default: take over the present size of the file or device)")
    .option("--allow-shrink", "let the bytes beyond the new end be lost")
    .action(
      action(async (context, name: string, options: { size?: string; allowShrink?: boolean }) =>
        (await import("../commands/volume-resize.ts")).volumeResize(context, name, options),
      ),
    );
  volume
    .command("reopen")
    .description("open an unavailable volume again, when its file or device is back")
    .addArgument(volumeOperand())
    .action(
      action(async (context, name: string) =>
        (await import("../commands/volume-reopen.ts")).volumeReopen(context, name),
      ),
    );
  volume
    .command("delete")
    .description("take a volume out of the box; its bytes stay")
    .addArgument(volumeOperand())
    .option("--delete-file", "also remove the file, if the box created it")
    .action(
      action(async (context, name: string, options: { deleteFile?: boolean }) =>
        (await import("../commands/volume-delete.ts")).volumeDelete(context, name, options),
      ),
    );
}

function addAttachment(volume: Command): void {
  volume
    .command("attach")
    .description("make a volume a local block device; prints its path")
    .addArgument(extentOperand())
    .option("--read-only", "refuse writes")
    .action(
      action(async (context, name: string, options: { readOnly?: boolean }) =>
        (await import("../commands/volume-attach.ts")).volumeAttach(context, name, options),
      ),
    );
  volume
    .command("detach")
    .description("undo `volume attach`; everything written is made durable first")
    .argument("<volume>", "name, label or device path")
    .option("--force", "detach although unwritten data cannot be saved")
    .action(
      action(async (context, name: string, options: { force?: boolean }) =>
        (await import("../commands/volume-detach.ts")).volumeDetach(context, name, options),
      ),
    );
  volume
    .command("attachments")
    .description("volumes attached on this machine")
    .action(action(async (context) => (await import("../commands/volume-attachments.ts")).volumeAttachments(context)));
}

function addBytes(volume: Command): void {
  volume
    .command("read")
    .description("write the bytes of a volume to standard output")
    .addArgument(extentOperand())
    .option("--offset <size>", "first byte", "0")
    .option("--length <size>", "number of bytes (default: to the end)")
    .action(
      action(async (context, name: string, options: { offset: string; length?: string }) =>
        (await import("../commands/volume-read.ts")).volumeRead(context, name, options),
      ),
    );
  volume
    .command("write")
    .description("write standard input into a volume, durably")
    .addArgument(extentOperand())
    .option("--offset <size>", "first byte", "0")
    .action(
      action(async (context, name: string, options: { offset: string }) =>
        (await import("../commands/volume-write.ts")).volumeWrite(context, name, options),
      ),
    );
}
