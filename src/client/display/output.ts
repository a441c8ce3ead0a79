/**
 * Where a command's result goes: tables and sentences for people, or one JSON object a line for programs.
 *
 * Invariants: standard output holds only the result; progress and errors go to standard error; with --json there is
 * no progress.
 */
import { type Column, renderTable } from "./table.ts";

/** The generated object of a message type: its JSON form is the protobuf JSON mapping. */
export interface MessageType<T> {
  toJSON(message: T): unknown;
}

export interface Sink {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
}

export class Output {
  readonly json: boolean;
  readonly stdout: Sink;
  readonly stderr: Sink;

  constructor(options: { format: "text" | "json"; stdout: Sink; stderr: Sink }) {
    this.json = options.format === "json";
    this.stdout = options.stdout;
    this.stderr = options.stderr;
  }

  /** A protobuf message as one line of JSON. */
  message<T>(type: MessageType<T>, message: T): void {
    this.object(type.toJSON(message));
  }

  /** A plain object as one line of JSON. */
  object(value: unknown): void {
    this.stdout.write(`${JSON.stringify(value)}\n`);
  }

  line(text: string): void {
    this.stdout.write(`${text}\n`);
  }

  /** One line on standard error, for people only. */
  note(text: string): void {
    if (!this.json) this.stderr.write(`${text}\n`);
  }

  table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): void {
    this.stdout.write(renderTable(columns, rows));
  }

  /** `name: value` lines with aligned values; empty values are left out. */
  facts(facts: readonly (readonly [name: string, value: string])[]): void {
    const shown = facts.filter(([, value]) => value !== "");
    const width = Math.max(0, ...shown.map(([name]) => name.length)) + 1;
    for (const [name, value] of shown) this.line(`${`${name}:`.padEnd(width)} ${value}`);
  }
}
