/**
 * The rules of the house that a machine can check: which way imports go, what is not called where, how long a file is.
 * docs/architecture.md and CONTRIBUTING.md give the reasons.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import test, { type ExecutionContext } from "ava";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const FILE_LINES_MAX = 500;
const NOT_OURS = new Set(["node_modules", "dist", "build", "third-party", ".git", "gen"]);

/** Every file below `directory` that is written by hand, as a path from the root. */
function filesUnder(directory: string): string[] {
  if (!existsSync(join(ROOT, directory))) return [];
  return readdirSync(join(ROOT, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return NOT_OURS.has(entry.name) ? [] : filesUnder(path);
    return entry.isFile() ? [path] : [];
  });
}

function read(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

const SOURCES = filesUnder("src").filter((path) => path.endsWith(".ts"));

/** Code without comments and without the content of plain strings, so that words in them are not taken for code. */
function codeOf(path: string): string {
  return read(path)
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/(^|[^:])\/\/.*$/gm, "$1")
    .replace(/"(?:[^"\\\n]|\\.)*"/g, '""');
}

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

const IMPORT_FORMS = [
  /\bimport\s+(type\s)?[^;"']*?\bfrom\s+"(\.[^"]+)"/g,
  /\bexport\s+(type\s)?[^;"']*?\bfrom\s+"(\.[^"]+)"/g,
  /\bimport(\s)"(\.[^"]+)"/g,
  /\bimport()\(\s*"(\.[^"]+)"\s*\)/g,
  /\bnew URL\(()["`](\.[^"`]+)["`],\s*import\.meta\.url\)/g,
  /\bspawnWorker\(import\.meta(),\s*"(\.[^"]+)"/g,
];

/** Imports of other files of this repository, in whatever form they are written. */
function importsOf(path: string): Import[] {
  const text = read(path).replace(/\/\*[\s\S]*?\*\//g, "");
  return IMPORT_FORMS.flatMap((form) =>
    [...text.matchAll(form)].map((match) => ({
      from: path,
      to: relative(ROOT, resolve(ROOT, dirname(path), match[2] ?? "")),
      typeOnly: (match[1] ?? "").trim() === "type",
    })),
  );
}

const IMPORTS = SOURCES.flatMap(importsOf);

/** Part of the house that a file belongs to: `src/engine/nbd/server.ts` is in `engine`. */
function partOf(path: string): string {
  const [first = "", second = ""] = path.split("/");
  return first === "src" ? second : first;
}

const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  base: [],
  store: ["base", "gen"],
  engine: ["base", "core-wasm", "store"],
  domain: ["base", "engine", "store"],
  server: ["base", "gen", "domain"],
  client: ["base", "gen"],
  quickstart: ["base", "gen", "client"],
};

/** The files that build the concrete parts and put them together: of a box that serves, and of one that is checked. */
const COMPOSITION_ROOTS: readonly string[] = ["src/server/daemon.ts", "src/server/fsck.ts"];

/** The composition roots, and the files that start the server, or its check, inside the client's process. */
const EXCEPTIONS: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(COMPOSITION_ROOTS.map((path) => [path, ["engine", "store"]])),
  "src/client/commands/fsck.ts": ["server"],
  "src/client/commands/serve.ts": ["server"],
};

/** Fails with the list of what breaks a rule, one a line. */
function none(t: ExecutionContext, violations: readonly string[]): void {
  if (violations.length === 0) t.pass();
  else t.fail(`\n${violations.join("\n")}`);
}

test("imports go one way", (t) => {
  t.true(IMPORTS.length > 100, "the imports were found");
  const wrong = IMPORTS.filter(({ from, to, typeOnly }) => {
    const [here, there] = [partOf(from), partOf(to)];
    if (here === there || to === "package.json") return false;
    // The server may name the types of what the composition root hands to it.
    if (here === "server" && typeOnly && ["engine", "store"].includes(there)) return false;
    return ![...(ALLOWED[here] ?? []), ...(EXCEPTIONS[from] ?? [])].includes(there);
  });
  none(
    t,
    wrong.map(({ from, to }) => `${from} imports ${to}: ${partOf(from)} must not import ${partOf(to)}`),
  );
});

test("every part of src has its rule", (t) => {
  const parts = new Set(SOURCES.filter((file) => file.split("/").length > 2).map(partOf));
  none(
    t,
    [...parts].filter((part) => !(part in ALLOWED)).map((part) => `src/${part} is missing in ALLOWED`),
  );
});

test("store engines are reached only through their interface", (t) => {
  const concrete = IMPORTS.filter(({ to }) => /^src\/store\/(leveldb|memory|etcd)\//.test(to));
  const wrong = concrete.filter(({ from }) => partOf(from) !== "store" && !COMPOSITION_ROOTS.includes(from));
  none(
    t,
    wrong.map(({ from, to }) => `${from} imports ${to}`),
  );
});

test("the exceptions of the client are two files", (t) => {
  const reaching = SOURCES.filter((path) => partOf(path) === "client" && /\/server\//.test(withoutComments(path)));
  t.deepEqual(reaching, ["src/client/commands/fsck.ts", "src/client/commands/serve.ts"]);
});

function withoutComments(path: string): string {
  return read(path)
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/^\s*\/\/.*$/gm, "");
}

const BANNED: readonly (readonly [pattern: RegExp, instead: string])[] = [
  [/\bDate\.now\(/, "Clock.nowMs"],
  [/\bnew Date\(\s*\)/, "Clock.nowMs"],
  [/\bperformance\.now\(/, "Clock.monotonicMs"],
  [/\bprocess\.hrtime\b/, "Clock.monotonicMs"],
  [/\bMath\.random\(/, "Random.bytes"],
  [/\brandomBytes\(|\brandomUUID\(/, "Random.bytes"],
  [/(?<![.\w])set(Timeout|Interval)\(/, "Clock.sleep"],
];

test("time and chance come through the ports in engine, domain and store", (t) => {
  const inside = SOURCES.filter((file) => ["engine", "domain", "store"].includes(partOf(file)));
  const violations = inside.flatMap((path) => {
    const code = codeOf(path);
    const found = BANNED.filter(([pattern]) => pattern.test(code));
    return found.map(([pattern, instead]) => `${path} has ${pattern.source}: use ${instead} (base/ports.ts)`);
  });
  none(t, violations);
});

test("no `any`", (t) => {
  const form = /[:<,(|&]\s*any\b(?!\w)|\bas\s+any\b|\bany\[\]/;
  none(
    t,
    SOURCES.filter((path) => form.test(codeOf(path))),
  );
});

test("files are short enough to read", (t) => {
  const files = [...SOURCES, ...filesUnder("scripts"), ...filesUnder("bench")];
  const violations = files.flatMap((path) => {
    const lines = read(path).split("\n").length - 1;
    return lines > FILE_LINES_MAX ? [`${path} has ${lines} lines; at most ${FILE_LINES_MAX}`] : [];
  });
  none(t, violations);
});

test("no barrel files and no grab bags", (t) => {
  none(
    t,
    SOURCES.filter((path) => /\/(index|utils?|helpers?|misc|common)(\.ts|\/)/i.test(path)),
  );
});

test("every source folder says what it is for", (t) => {
  const folders = readdirSync(join(ROOT, "src"), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const paths = folders.filter(({ name }) => name !== "gen").map(({ name }) => `src/${name}/README.md`);
  none(
    t,
    [...paths, "core-wasm/README.md"].filter((path) => !existsSync(join(ROOT, path))),
  );
});

test("every file of src says what it is", (t) => {
  const silent = SOURCES.filter((path) => !path.endsWith(".d.ts") && !/\/\*\*|^\/\//m.test(read(path)));
  none(t, silent);
});

test("the contract is commented and well formed", (t) => {
  const { status, stdout, stderr } = spawnSync("npx", ["buf", "lint"], { cwd: ROOT, encoding: "utf8" });
  t.is(status, 0, stdout + stderr);
});

const TEXTS = ["src", "test", "scripts", "bench", "proto", "docs", "core-wasm", ".ci"]
  .flatMap(filesUnder)
  .concat(readdirSync(ROOT).filter((name) => statSync(join(ROOT, name)).isFile() && !name.startsWith(".git")))
  .filter((path) => !/\.(wasm|binpb|png|img|gz|xz|log)$/.test(path));

test("nothing names the machine it was built on", (t) => {
  const home = ROOT.replace(/\/$/, "");
  // A checkout directly below / has a name that may be a word and would be found everywhere.
  const names = home.split("/").length > 2 ? [home] : [];
  const resolved = new RegExp(`"${"resolved"}": "http`);
  const violations = TEXTS.flatMap((path) => {
    const text = read(path);
    const found = names.filter((name) => text.includes(name));
    if (resolved.test(text)) found.push("a registry");
    return found.map((name) => `${path} names ${name}`);
  });
  none(t, violations);
});

test("links in the documents lead somewhere", (t) => {
  const documents = TEXTS.filter((file) => file.endsWith(".md"));
  const violations = documents.flatMap((path) => {
    const prose = read(path).replace(/```[\s\S]*?```/g, "");
    const targets = [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1] ?? "");
    const local = targets.filter((target) => !/^[a-z]+:|^#/.test(target));
    const broken = local.filter((target) => !existsSync(join(ROOT, dirname(path), target.replace(/#.*$/, ""))));
    return broken.map((target) => `${path} links to ${target}`);
  });
  none(t, violations);
});
