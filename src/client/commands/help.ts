/** `tidemark help [COMMAND...|TOPIC]` */
import type { Command } from "commander";
import { EXIT_CODES, usageError } from "../failure.ts";

const JSON_TOPIC = `With --json the result is the message of the RPC in the protobuf JSON mapping, on one line:
  get, create, register, resize, start, cancel ...  the response, such as {"volume":{"name":"g1d1",...}}
  list, partitions, changes, events                 one resource a line, such as {"name":"g1d1",...}
  copy watch                                        one response a line, such as {"copy":{"id":"c1",...}}
  copy start --wait                                 the response with the final states
  attach, detach, attachments                       {"attachment":{"name","device","uri","method","readOnly"}}
  doctor                                            {"findings":[...]} with the findings of this machine as well
64-bit numbers are strings, times are RFC 3339, fields that are 0, false or empty are left out.
Errors go to standard error as {"code","reason","message","hint","metadata"}.
`;

export function help(program: Command, words: readonly string[]): void {
  const topic = words.length === 1 ? TOPICS[words[0] ?? ""] : undefined;
  if (topic === undefined) commandHelp(program, words);
  else print(topic());
}

const TOPICS: Readonly<Record<string, () => string>> = { "exit-codes": exitCodesText, json: () => JSON_TOPIC };

function commandHelp(program: Command, words: readonly string[]): void {
  let command = program;
  for (const word of words) {
    const next = command.commands.find((candidate) => candidate.name() === word);
    if (next === undefined) throw usageError(`there is no command or topic \`${words.join(" ")}\``, "tidemark help");
    command = next;
  }
  command.outputHelp();
  if (command === program) print("\nTopics: tidemark help exit-codes, tidemark help json\n");
}

export function exitCodesText(): string {
  return EXIT_CODES.map(([code, meaning]) => `${String(code).padStart(4)}  ${meaning}\n`).join("");
}

function print(text: string): void {
  process.stdout.write(text);
}
