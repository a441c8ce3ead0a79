import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { EXIT_CODES } from "../../src/client/failure.ts";
import { createProgram } from "../../src/client/program.ts";
import { runTidemark } from "./run-tidemark.ts";

/** Every leaf of the command tree, `volume get`. */
function commandPaths(command = createProgram(), path: readonly string[] = []): string[] {
  if (command.commands.length === 0) return [path.join(" ")];
  return command.commands.flatMap((child) => commandPaths(child, [...path, child.name()]));
}

const FORMS = [
  "volume register",
  "volume create",
  "volume list",
  "volume get",
  "volume partitions",
  "volume changes",
  "volume resize",
  "volume reopen",
  "volume delete",
  "volume attach",
  "volume detach",
  "volume attachments",
  "volume read",
  "volume write",
  "partition list",
  "export add",
  "export list",
  "export get",
  "export remove",
  "copy start",
  "copy restart",
  "copy explain",
  "copy pace",
  "copy cancel",
  "copy stop-tracking",
  "copy list",
  "copy get",
  "copy watch",
  "serve",
  "fsck",
  "scrub",
  "status",
  "doctor",
  "events",
  "completion",
  "version",
  "help",
];

test("the commands are the documented ones", (t) => t.deepEqual(commandPaths(), FORMS));

test("every command, operand and option is explained", (t) => {
  const visit = (command: ReturnType<typeof createProgram>): void => {
    t.not(command.description(), "", command.name());
    for (const option of command.options) t.not(option.description, "", `${command.name()} ${option.flags}`);
    for (const operand of command.registeredArguments)
      t.not(operand.description, "", `${command.name()} ${operand.name()}`);
    for (const option of command.options) {
      t.false(option.short !== undefined && option.short !== "-V", `${option.flags} has no short form`);
    }
    for (const child of command.commands) visit(child);
  };
  visit(createProgram());
});

const USAGE: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [[], /^Usage: tidemark/],
  [["volume"], /^Usage: tidemark volume/],
  [["nonsense"], /unknown command 'nonsense' \(USAGE\)\n {2}try: tidemark --help/],
  [["volume", "nonsense"], /unknown command/],
  [["volume", "lst"], /unknown command 'lst' \(USAGE\)\n {2}try: list, or: tidemark volume --help/],
  [["volume", "list", "--jsn"], /unknown option '--jsn' \(USAGE\)\n {2}try: --json, or: tidemark volume list --help/],
  [["volume", "get"], /missing required argument 'volume' \(USAGE\)\n {2}try: tidemark volume get --help/],
  [["volume", "get", "a", "b"], /too many arguments/],
  [["volume", "list", "--colour"], /unknown option '--colour'/],
  [["volume", "create", "--path", "/x"], /required option '--size <size>'/],
  [["volume", "create", "--path", "/x", "--size", "big"], /`big` is not a size/],
  [["volume", "register", "/x", "--lu", "0"], /`0` is not an LU number/],
  [["volume", "changes", "g1d1"], /required option '--since <epoch>'/],
  [["volume", "changes", "g1d1", "--since", "x"], /`x` is not an epoch/],
  [["copy", "start", "a", "b"], /required option '--kind <kind>'/],
  [["copy", "start", "a", "b", "--kind", "mirror"], /Allowed choices are opc, quickopc/],
  [["copy", "start", "a", "b", "c", "--kind", "OPC"], /a destination is missing/],
  [["copy", "start", "a", "b", "--kind", "QuickOPC", "--pace", "16"], /`16` is not a pace/],
  [["copy", "pace", "c1", "fast"], /`fast` is not a pace/],
  [["volume", "list", "--address", "nowhere"], /is not an address/],
  [["volume", "list", "--timeout", "soon"], /is not a time/],
  [["volume", "list", "--request-id", ""], /request id/],
  [["volume", "read", "g1d1", "--json"], /no JSON form/],
  [["completion", "tcsh"], /Allowed choices are bash, zsh, fish/],
  [["help", "nothing"], /there is no command or topic/],
];

for (const [args, message] of USAGE) {
  test(`usage: \`tidemark ${args.join(" ")}\` ends with 2`, async (t) => {
    const { code, stdout, stderr } = await runTidemark(args);
    t.is(code, 2, stderr);
    t.regex(stderr, message);
    t.is(stdout, "");
  });
}

test("a usage error with --json is one object", async (t) => {
  const { code, stderr } = await runTidemark(["volume", "get", "--json"]);
  t.is(code, 2);
  t.like(JSON.parse(stderr), { code: "USAGE", reason: "USAGE", hint: "tidemark volume get --help" });
});

test("no server: exit code 5, with the address and what to do", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-none-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const address = `unix:${join(directory, "api.sock")}`;
  const text = await runTidemark(["volume", "list"], { env: { TIDEMARK_ADDRESS: address } });
  t.is(text.code, 5);
  t.true(text.stderr.includes(address));
  t.regex(text.stderr, /\n {2}try: start a server with `tidemark serve/);
  const json = await runTidemark(["volume", "list", "--json", "--address", address]);
  t.is(json.code, 5);
  t.like(JSON.parse(json.stderr), { code: "UNAVAILABLE", reason: "UNREACHABLE" });
});

test("--timeout ends the command with 8", async (t) => {
  // A listener that never answers the HTTP/2 preface.
  const { createServer } = await import("node:net");
  const directory = mkdtempSync(join(tmpdir(), "tidemark-mute-"));
  const path = join(directory, "s");
  const server = createServer(() => {}).listen(path);
  await new Promise((resolve) => server.once("listening", resolve));
  t.teardown(() => server.close());
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const { code, stderr } = await runTidemark(["status", "--timeout", "300ms", "--address", `unix:${path}`]);
  t.is(code, 8, stderr);
});

test("help exit-codes is the table of the README", async (t) => {
  const { code, stdout } = await runTidemark(["help", "exit-codes"]);
  t.is(code, 0);
  const readme = readFileSync(new URL("../../src/client/README.md", import.meta.url), "utf8");
  const documented = [...readme.matchAll(/^\| (\d+) \|/gm)].map((match) => Number(match[1]));
  t.deepEqual(
    documented,
    EXIT_CODES.map(([exitCode]) => exitCode),
  );
  for (const exitCode of documented) t.regex(stdout, new RegExp(`^ +${exitCode}  `, "m"));
});

test("help and version end with 0", async (t) => {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  t.like(await runTidemark(["--version"]), { code: 0, stdout: `${version}\n` });
  t.like(await runTidemark(["copy", "start", "--help"]), { code: 0, stderr: "" });
  const help = await runTidemark(["help", "copy", "start"]);
  t.is(help.code, 0);
  t.regex(help.stdout, /SOURCE DESTINATION/);
});

const COMPLETIONS: readonly (readonly [words: readonly string[], candidates: readonly string[]])[] = [
  [["vol"], ["volume"]],
  [["copy", "sto"], ["stop-tracking"]],
  [["copy", "start", "a", "b", "--k"], ["--kind"]],
  [
    ["copy", "start", "a", "b", "--kind", ""],
    ["opc", "quickopc"],
  ],
  [
    ["completion", ""],
    ["bash", "zsh", "fish"],
  ],
];

for (const [words, candidates] of COMPLETIONS) {
  test(`completion of \`tidemark ${words.join(" ")}\``, async (t) => {
    const { code, stdout } = await runTidemark(["complete", "--", ...words]);
    t.is(code, 0);
    const found = stdout.split("\n").filter((line) => line !== "" && !line.startsWith(":"));
    t.deepEqual(
      found.map((line) => line.split("\t")[0]),
      [...candidates],
    );
  });
}

for (const shell of ["bash", "zsh", "fish"]) {
  test(`completion script of ${shell} calls tidemark`, async (t) => {
    const { code, stdout } = await runTidemark(["completion", shell]);
    t.is(code, 0);
    t.regex(stdout, /tidemark complete --/);
    if (shell === "bash") t.notThrows(() => execFileSync("bash", ["-n"], { input: stdout }));
  });
}
