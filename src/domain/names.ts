/**
 * Names of volumes and partitions, and labels.
 *
 * Role: grammar only. Canonical: `g<box>d<lu>` and `g<box>d<lu>p<partition>`, numbers without leading zeros.
 * A label never looks like a canonical name, so that one text has one meaning.
 */
import { TidemarkError } from "../base/errors.ts";
import { LABEL_LENGTH_MAX } from "../base/limits.ts";

export interface CanonicalName {
  readonly box: number;
  readonly lu: number;
  /** 0 for the whole volume. */
  readonly partition: number;
}

const CANONICAL = /^g(0|[1-9]\d{0,3})d([1-9]\d{0,4})(?:p([1-9]\d{0,2}))?$/;
const LOOKS_CANONICAL = /^g\d+d\d+(p\d+)?$/i;
const LABEL = /^[A-Za-z][A-Za-z0-9\-_.#]*$/;

/** The parts of a canonical name; undefined when it is none. */
export function parseCanonicalName(text: string): CanonicalName | undefined {
  const match = CANONICAL.exec(text);
  if (match === null) return undefined;
  return { box: Number(match[1]), lu: Number(match[2]), partition: Number(match[3] ?? 0) };
}

export function volumeName(box: number, lu: number): string {
  return `g${box}d${lu}`;
}

export function partitionName(box: number, lu: number, partition: number): string {
  return `g${box}d${lu}p${partition}`;
}

/** Throws INVALID_ARGUMENT unless `label` may be a label; the empty one (no label) may. */
export function checkLabel(label: string): void {
  if (label === "") return;
  const refuse = (reason: string) => {
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `the label ${JSON.stringify(label.slice(0, 100))} ${reason}`,
      hint: `use letters, digits and -_.#, a letter first, at most ${LABEL_LENGTH_MAX} characters`,
      field: "label",
    });
  };
  if (label.length > LABEL_LENGTH_MAX) refuse("is too long");
  if (!LABEL.test(label)) refuse("has characters that a label must not have");
  if (LOOKS_CANONICAL.test(label)) refuse("looks like the name of a volume");
}

/** The number of a session id `c12`; undefined when it is none. */
export function parseCopyId(id: string): number | undefined {
  const match = /^c([1-9]\d{0,14})$/.exec(id);
  return match === null ? undefined : Number(match[1]);
}

export function copyId(number: number): string {
  return `c${number}`;
}
