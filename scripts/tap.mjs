// Reads AVA's TAP output line by line into test results.
//
// A test that cannot run here calls `t.log("skipped: why"); t.pass()`: TAP has `#   skipped: why` after its line.

const POINT = /^(not )?ok \d+ - (.*?)(?: # (SKIP|TODO)\b.*)?$/;
const LOG = /^# {3}(.*)$/;
const SKIPPED = /^skipped: (.+)$/;

export class TapReader {
  results = []; // { title, outcome: "passed" | "failed" | "skipped", reason, detail: string[] }
  #inDetail = false;

  // Takes one line. Returns the result that is complete now, if any: the one before the next test's line.
  line(text) {
    const point = POINT.exec(text);
    if (point !== null) {
      const before = this.results.at(-1);
      const [, not, title, mark] = point;
      const outcome = mark !== undefined ? "skipped" : not === undefined ? "passed" : "failed";
      this.results.push({
        title: plain(title),
        outcome,
        reason: mark === undefined ? "" : mark.toLowerCase(),
        detail: [],
      });
      return before;
    }
    const current = this.results.at(-1);
    if (current === undefined) return undefined;
    if (text === "  ---") this.#inDetail = true;
    else if (text === "  ...") this.#inDetail = false;
    else if (this.#inDetail) current.detail.push(text);
    else this.#log(current, text);
    return undefined;
  }

  #log(current, text) {
    const words = LOG.exec(text)?.[1];
    if (words === undefined) return;
    const reason = SKIPPED.exec(words)?.[1];
    if (reason !== undefined && current.outcome === "passed") Object.assign(current, { outcome: "skipped", reason });
    else current.detail.push(`    ${words}`);
  }
}

function plain(title) {
  return title.replaceAll("\\#", "#");
}

// AVA puts the path of the file before the title, `cli › units › sizes`, when there is more than one file.
export function splitTitle(title, files) {
  for (const file of files) {
    const prefix = `${file
      .replace(/^test\//, "")
      .replace(/\.test\.ts$/, "")
      .split("/")
      .join(" › ")} › `;
    if (title.startsWith(prefix)) return { file, title: title.slice(prefix.length) };
  }
  return { file: files.length === 1 ? files[0] : "", title };
}
