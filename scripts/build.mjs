// Builds what is out of date: generated code, WebAssembly, then JavaScript. `sources` stops before the JavaScript.
// Out of date means: the content of the inputs differs from that of the last build (build/stamps), or an output is gone.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
process.chdir(root);

const STEPS = [
  {
    name: "gen",
    title: "code from the contract",
    inputs: ["proto", "buf.yaml", "buf.gen.yaml", "package-lock.json", "scripts/third-party-protos.mjs"],
    outputs: [
      "src/gen/descriptors.binpb",
      "src/gen/tidemark/v1/volume.ts",
      "src/gen/google/rpc/status.ts",
      "third-party",
    ],
  },
  {
    name: "wasm",
    title: "WebAssembly",
    inputs: ["core-wasm/assembly", "core-wasm/asconfig.json", "package-lock.json"],
    outputs: ["core-wasm/build/core.wasm", "core-wasm/build/core.js", "core-wasm/build/core.d.ts"],
  },
];

for (const step of STEPS) if (isStale(step)) runStep(step);
if (process.argv[2] !== "sources") {
  if (!existsSync("dist")) say("JavaScript");
  removeOrphans("dist");
  npmRun("compile");
}

function isStale({ name, inputs, outputs }) {
  return !outputs.every((path) => existsSync(path)) || read(stampOf(name)) !== digestOf(inputs);
}

function runStep({ name, title, inputs }) {
  say(title);
  const digest = digestOf(inputs);
  npmRun(name);
  mkdirSync(dirname(stampOf(name)), { recursive: true });
  writeFileSync(stampOf(name), digest);
}

// On standard error: the first build takes some seconds, and what runs after it may print a result.
function say(title) {
  console.error(`build: ${title}`);
}

function stampOf(name) {
  return join("build", "stamps", name);
}

function npmRun(script) {
  const { status } = spawnSync("npm", ["run", "--silent", script], { stdio: "inherit" });
  if (status !== 0) {
    console.error(`build: \`npm run ${script}\` failed`);
    process.exit(status ?? 1);
  }
}

function digestOf(inputs) {
  const hash = createHash("sha256");
  for (const path of inputs.flatMap(filesUnder)) hash.update(`${path}\0`).update(readFileSync(path)).update("\0");
  return hash.digest("hex");
}

function filesUnder(path) {
  if (!statSync(path).isDirectory()) return [path];
  const names = readdirSync(path).sort();
  return names.flatMap((name) => filesUnder(join(path, name)));
}

function read(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

// A module whose source was removed must not go on being imported.
function removeOrphans(directory) {
  if (!existsSync(directory)) return;
  for (const file of filesUnder(directory)) {
    const source = join("src", relative(directory, file)).replace(/(\.d\.ts|\.js)(\.map)?$/, ".ts");
    if (source.endsWith(".ts") && !existsSync(source)) rmSync(file);
  }
}
