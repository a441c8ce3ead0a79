/** `tidemark completion SHELL`, and the hidden `tidemark complete -- WORDS` that the scripts call. */
import completions from "@bomb.sh/tab";
import registerCommands from "@bomb.sh/tab/commander";
import type { Command } from "commander";

const NAME = "tidemark";

/** Prints the script that a shell sources. */
export function printScript(shell: "bash" | "zsh" | "fish"): void {
  completions.setup(NAME, NAME, shell);
}

/** Prints candidates for a half-typed command line: `complete -- volume re`. */
export async function printCandidates(program: Command, words: readonly string[]): Promise<void> {
  registerCommands(program, { completionCommandName: "completion-script" });
  await program.parseAsync([...words], { from: "user" });
}
