/** Findings about the box's own state, as lines for people. */
import { FindingSeverity, type MetadataFinding, MetadataFindingKind } from "../../gen/tidemark/v1/box.ts";

const SEVERITY_WORDS: Record<FindingSeverity, string> = {
  [FindingSeverity.UNSPECIFIED]: "",
  [FindingSeverity.INFO]: "info",
  [FindingSeverity.WARNING]: "warning",
  [FindingSeverity.ERROR]: "error",
};

const KIND_WORDS: Record<MetadataFindingKind, string> = {
  [MetadataFindingKind.UNSPECIFIED]: "",
  [MetadataFindingKind.DAMAGED]: "damaged",
  [MetadataFindingKind.TORN_TAIL]: "torn tail",
  [MetadataFindingKind.STALE]: "stale",
  [MetadataFindingKind.MISSING]: "missing",
  [MetadataFindingKind.FOREIGN]: "foreign",
  [MetadataFindingKind.LEFT_OVER]: "left over",
  [MetadataFindingKind.SET_ASIDE]: "set aside",
  [MetadataFindingKind.UNKNOWN]: "unknown",
  [MetadataFindingKind.UNREADABLE]: "unreadable",
  [MetadataFindingKind.TOO_NEW]: "too new",
};

export function findingLines(finding: MetadataFinding): string[] {
  const { path, page, offsetBytes, message, cost, remedy, repaired } = finding;
  const place = [page === undefined ? "" : `page ${page}`, offsetBytes === undefined ? "" : `byte ${offsetBytes}`]
    .filter((part) => part !== "")
    .join(", ");
  const head = repaired ? "repaired" : SEVERITY_WORDS[finding.severity];
  const where = place === "" ? path : `${path} (${place})`;
  const lines = [`${head}: ${where}: ${message} [${KIND_WORDS[finding.kind]}]`];
  if (cost !== "") lines.push(`  cost: ${cost}`);
  if (!repaired && remedy !== "") lines.push(`  try: ${remedy}`);
  return lines;
}

/** `1 finding: nothing is left to be done` */
export function countsText(findings: number, left: number): string {
  const found = `${findings} ${findings === 1 ? "finding" : "findings"}`;
  return `${found}: ${left === 0 ? "nothing is left to be done" : `${left} left`}`;
}

/** To be done by somebody: not repaired, and more than good to know. */
export function isLeft({ severity, repaired }: MetadataFinding): boolean {
  return !repaired && severity !== FindingSeverity.INFO;
}
