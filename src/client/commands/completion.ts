/**
 * `tidemark completion SHELL`, and the hidden `tidemark complete -- WORDS` that the scripts call.
 *
 * Names of volumes, exports and copies are asked from the server. Somebody is waiting at a prompt: when no answer comes
 * at once, for whatever reason, there are no names, and nothing is said.
 */
import completions, { type RootCommand } from "@bomb.sh/tab";
import registerCommands from "@bomb.sh/tab/commander";
import type { Command } from "commander";
import { CopyServiceClient } from "../../gen/tidemark/v1/copy.ts";
import { ExportServiceClient } from "../../gen/tidemark/v1/export.ts";
import { VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import { Connection } from "../connection.ts";
import { kindWord } from "../display/words.ts";
import { addressOf } from "../perform.ts";

const NAME = "tidemark";
const ANSWER_WITHIN_MS = 700;

/** Prints the script that a shell sources. */
export function printScript(shell: "bash" | "zsh" | "fish"): void {
  completions.setup(NAME, NAME, shell);
}

/** Prints candidates for a half-typed command line: `complete -- volume re`. */
export async function printCandidates(program: Command, words: readonly string[]): Promise<void> {
  const root = registerCommands(program, { completionCommandName: "completion-script" });
  await addNames(root, words.slice(words.indexOf("--") + 1));
  await program.parseAsync([...words], { from: "user" });
}

interface Candidate {
  readonly name: string;
  readonly description: string;
}

type NameSource = (connection: Connection) => Promise<Candidate[]>;

/** What stands for an operand, by the operand's name in the grammar. */
const SOURCES: Readonly<Record<string, NameSource>> = {
  volume: volumes,
  source: volumes,
  destination: volumes,
  pairs: volumes,
  export: exports,
  id: copies,
  ids: copies,
};

/** Gives the operands of the typed command their names. */
async function addNames(root: RootCommand, typed: readonly string[]): Promise<void> {
  const command = root.commands.get(typed.slice(0, 2).join(" "));
  const operands = [...(command?.arguments.values() ?? [])].filter(({ name }) => name in SOURCES);
  if (operands.length === 0) return;
  const options = { deadlineMs: Date.now() + ANSWER_WITHIN_MS, signal: new AbortController().signal };
  const connection = new Connection({ address: addressOf(addressOption(typed)), ...options });
  try {
    for (const operand of operands) {
      const found = (await SOURCES[operand.name]?.(connection)) ?? [];
      operand.handler = (offer) => {
        for (const { name, description } of found) offer(name, description);
      };
    }
  } catch {
    // no server, no names: see above
  } finally {
    connection.close();
  }
}

function addressOption(typed: readonly string[]): { address?: string } {
  const at = typed.indexOf("--address");
  const address = at >= 0 ? typed[at + 1] : process.env["TIDEMARK_ADDRESS"];
  return address === undefined || address === "" ? {} : { address };
}

async function volumes(connection: Connection): Promise<Candidate[]> {
  const client = connection.client(VolumeServiceClient);
  const page = await connection.unary(client, client.listVolumes, { pageSize: 0, pageToken: "" });
  return page.volumes.flatMap(({ name, label, path }) => {
    const named = { name, description: path };
    return label === "" ? [named] : [named, { name: label, description: name }];
  });
}

async function exports(connection: Connection): Promise<Candidate[]> {
  const client = connection.client(ExportServiceClient);
  const page = await connection.unary(client, client.listExports, { pageSize: 0, pageToken: "" });
  return page.exports.map(({ name, label }) => ({ name, description: label }));
}

async function copies(connection: Connection): Promise<Candidate[]> {
  const client = connection.client(CopyServiceClient);
  const request = { pageSize: 0, pageToken: "", volume: "", includeEnded: false };
  const page = await connection.unary(client, client.listCopies, request);
  return page.copies.map(({ id, source, destination, kind }) => ({
    name: id,
    description: `${source} to ${destination}, ${kindWord(kind)}`,
  }));
}
