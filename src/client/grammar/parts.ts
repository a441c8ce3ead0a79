/** What the grammars of all commands share: how an action gets its context, and the operands that many have. */
import { Argument, type Command } from "commander";
import type { CommandContext } from "../context.ts";
import { perform } from "../perform.ts";

/** An action that gets the context in front of its operands and options. */
export function action<Operands extends readonly unknown[]>(
  act: (context: CommandContext, ...operands: Operands) => Promise<unknown>,
): (...given: [...Operands, Command]) => Promise<void> {
  return (...given) => {
    const command = given.at(-1) as Command;
    return perform(command, (context) => act(context, ...(given.slice(0, -1) as unknown as Operands)));
  };
}

/** A whole volume. The names of operands are what completion goes by. */
export const volumeOperand = () => new Argument("<volume>", "name or label");
/** A volume or a part of it. */
export const extentOperand = (name = "volume") => new Argument(`<${name}>`, "name or label of a volume or partition");
export const exportOperand = () => new Argument("<export>", "name or label");
export const copyOperand = () => new Argument("<id>", "copy, such as c12");
