/** Types of tap.mjs, for its test. */
export interface TestResult {
  title: string;
  outcome: "passed" | "failed" | "skipped";
  reason: string;
  detail: string[];
}
export class TapReader {
  results: TestResult[];
  line(text: string): TestResult | undefined;
}
export function splitTitle(title: string, files: readonly string[]): { file: string; title: string };
