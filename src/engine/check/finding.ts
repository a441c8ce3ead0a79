/**
 * Findings: what is the matter with the engine's own state, and what follows from it.
 *
 * Role: turns the errors of the production decoders into findings with file, place, cost and remedy; keeps at most
 * CHECK_FINDINGS_MAX of them.
 */
import { asTidemarkError, type TidemarkError } from "../../base/errors.ts";
import { CHECK_FINDINGS_MAX } from "../../base/limits.ts";
import { isBarring } from "../durable/state-files.ts";
import type { FindingKind, MetadataFinding } from "../engine-api.ts";

/** What whoever checks a file knows beside the error. */
export interface FindingContext {
  readonly path: string;
  readonly subject: string;
  /** What the next start loses by it. */
  readonly cost: string;
  readonly remedy: string;
}

/** A start takes care of it, at no cost. */
export const NO_COST_REMEDY = "nothing needs to be done: the next start, or `tidemark fsck --repair`, takes care of it";

const KINDS: Partial<Record<TidemarkError["code"], FindingKind>> = {
  METADATA_CORRUPT: "damaged",
  MEDIUM_ERROR: "damaged",
  PATH_NOT_FOUND: "missing",
  SCHEMA_TOO_NEW: "too-new",
};

export function kindOf(error: TidemarkError): FindingKind {
  if (error.detail.metadata?.["belongsTo"] !== undefined) return "foreign";
  return KINDS[error.code] ?? "unreadable";
}

/** True when a start goes on, and makes good what is lost with the file. */
export function isSurvived(kind: FindingKind): boolean {
  return kind === "damaged" || kind === "missing" || kind === "foreign";
}

export function findingOf(cause: unknown, context: FindingContext): MetadataFinding {
  const error = asTidemarkError(cause);
  const kind = kindOf(error);
  const { path, subject } = context;
  const place = placeOf(error);
  const message = withoutPath(error.detail.message, path);
  if (!isSurvived(kind)) {
    const remedy = error.detail.hint ?? "mend it, then check again";
    return {
      ...{ kind, severity: "error", path, ...place, subject, message },
      ...{ cost: "the box does not start", remedy, repairable: false },
    };
  }
  const { cost } = context;
  const severity = cost === "" ? "warning" : "error";
  const misplaced =
    "if files were restored or moved to the wrong place, put them back before the next start; otherwise ";
  const remedy = kind === "foreign" ? misplaced + context.remedy : context.remedy;
  return { kind, severity, path, ...place, subject, message, cost, remedy, repairable: true };
}

/** Something that costs nothing. */
export function harmless(
  kind: FindingKind,
  context: Pick<FindingContext, "path" | "subject"> & { readonly message: string; readonly offsetBytes?: number },
): MetadataFinding {
  const { path, subject, message, offsetBytes } = context;
  return {
    ...{ kind, severity: "warning", path, offsetBytes, page: undefined, subject, message },
    ...{ cost: "", remedy: NO_COST_REMEDY, repairable: true },
  };
}

function placeOf({ detail }: TidemarkError): Pick<MetadataFinding, "offsetBytes" | "page"> {
  return { offsetBytes: wholeOf(detail.metadata?.["offset"]), page: wholeOf(detail.metadata?.["page"]) };
}

function wholeOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** Messages of state files begin with the path, which a finding has already. */
function withoutPath(message: string, path: string): string {
  return message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message;
}

/** Bounded; what is over the bound is counted. */
export class FindingList {
  #items: MetadataFinding[] = [];
  readonly #barred = new Map<string, TidemarkError>();
  #omitted = 0;

  /** As `findingOf`. */
  addError(cause: unknown, context: FindingContext): void {
    const error = asTidemarkError(cause);
    if (isBarring(error) && this.#items.length < CHECK_FINDINGS_MAX) this.#barred.set(context.path, error);
    this.add(findingOf(error, context));
  }

  /** Files that must not be opened, by their paths. What they cost is known when everything has been looked at. */
  get barred(): ReadonlyMap<string, TidemarkError> {
    return this.#barred;
  }

  setCost(path: string, cost: string): void {
    this.#items = this.#items.map((finding) => (finding.path === path ? { ...finding, cost } : finding));
  }

  add(finding: MetadataFinding): void {
    if (this.#items.length < CHECK_FINDINGS_MAX) this.#items.push(finding);
    else this.#omitted++;
  }

  get items(): readonly MetadataFinding[] {
    return this.#items;
  }

  get omitted(): number {
    return this.#omitted;
  }
}
