/**
 * What `tidemark fsck` loads of the server: the check of a data directory, in the words of the contract.
 *
 * Role: converts; the work is fsck.ts, and what is printed is the client's.
 */
import { asTidemarkError } from "../base/errors.ts";
import type { MetadataFinding } from "../gen/tidemark/v1/box.ts";
import { toMetadataFinding } from "./convert.ts";
import { ERROR_TABLE } from "./error-table.ts";
import { type FsckAction, type FsckReport, fsck } from "./fsck.ts";

export interface FsckAnswer extends Omit<FsckReport, "findings"> {
  readonly findings: readonly MetadataFinding[];
}

/** Why nothing could be checked, as a call would say it. */
export interface FsckRefusal {
  readonly code: (typeof ERROR_TABLE)[keyof typeof ERROR_TABLE]["status"];
  readonly reason: string;
  readonly message: string;
  readonly hint: string;
  readonly metadata: Readonly<Record<string, string>>;
}

export async function main(
  dataDirectory: string,
  action: FsckAction,
): Promise<{ readonly answer: FsckAnswer } | { readonly refusal: FsckRefusal }> {
  try {
    const report = await fsck(dataDirectory, action);
    const findings = report.findings.map(({ finding, state }) => toMetadataFinding(finding, state));
    return { answer: { ...report, findings } };
  } catch (error) {
    const { code, message, detail } = asTidemarkError(error);
    const { hint = "", metadata = {} } = detail;
    return { refusal: { code: ERROR_TABLE[code].status, reason: code, message, hint, metadata } };
  }
}
