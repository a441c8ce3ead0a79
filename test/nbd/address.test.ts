/** Addresses, URIs, and sockets that somebody else has or had. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import test from "ava";
import { systemClock } from "../../src/base/clock.ts";
import { baseUri, parseAddress } from "../../src/engine/nbd/address.ts";
import { exportUri, NbdServer } from "../../src/engine/nbd/server.ts";
import { startLab, temporaryDirectory } from "./lab.ts";
import { Exports } from "./memory-target.ts";
import { CMD, RawClient } from "./raw-client.ts";

const WRONG = [
  "",
  "unix:",
  `unix:/${"n".repeat(107)}`,
  "localhost",
  ":1",
  "host:",
  "host:70000",
  "host:1:2",
  "::1:9",
  "[::1]",
];

for (const address of WRONG) {
  test(`address "${address.slice(0, 20)}" is refused`, (t) => {
    const error = t.throws(() => parseAddress(address));
    t.is((error as Error & { code: string }).code, "INVALID_ARGUMENT");
  });
}

const URIS: readonly [address: string, base: string, name: string, uri: string][] = [
  ["unix:/run/a.sock", "nbd+unix:///?socket=/run/a.sock", "g1d2", "nbd+unix:///g1d2?socket=/run/a.sock"],
  [
    "unix:/r n/a&b#?%.sock",
    "nbd+unix:///?socket=/r%20n/a%26b%23%3F%25.sock",
    "a b/ü?",
    "nbd+unix:///a%20b%2F%C3%BC%3F?socket=/r%20n/a%26b%23%3F%25.sock",
  ],
  ["localhost:10809", "nbd://localhost:10809", "g1d2", "nbd://localhost:10809/g1d2"],
  ["127.0.0.1:1", "nbd://127.0.0.1:1", "", "nbd://127.0.0.1:1/"],
  ["[::1]:65535", "nbd://[::1]:65535", "50%", "nbd://[::1]:65535/50%25"],
];

for (const [address, base, name, uri] of URIS) {
  test(`address ${address} is ${base}`, (t) => {
    t.is(baseUri(parseAddress(address)), base);
    t.is(exportUri(base, name), uri);
  });
}

function newServer(): NbdServer {
  return new NbdServer({ exports: new Exports(), clock: systemClock });
}

test("the socket is for its owner and group, and goes with the server", async (t) => {
  const { directory, server } = await startLab(t);
  const path = join(directory, "nbd.sock");
  t.is(statSync(path).mode & 0o777, 0o660);
  await server.close({ graceMs: 0 });
  t.false(existsSync(path));
});

test("a socket on which a server answers is left alone", async (t) => {
  const { directory, base } = await startLab(t);
  const error = await t.throwsAsync(newServer().listen(`unix:${join(directory, "nbd.sock")}`));
  t.is((error as Error & { code: string }).code, "PATH_HELD");
  t.is((await (await RawClient.open(base, "x")).request({ command: CMD.READ, length: 1 })).error, "ok");
});

test("a socket whose server was killed is taken over", async (t) => {
  const path = join(temporaryDirectory(t), "nbd.sock");
  const code = `require("net").createServer().listen(${JSON.stringify(path)}, () => console.log("up"))`;
  const child = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("exit", resolve));
  t.true(existsSync(path));
  const server = newServer();
  t.teardown(() => server.close({ graceMs: 0 }));
  const client = await RawClient.connect(await server.listen(`unix:${path}`));
  t.is((await client.greet()).flags, 3);
});

test("a path that is something else is not touched", async (t) => {
  const directory = temporaryDirectory(t);
  writeFileSync(join(directory, "file"), "precious");
  mkdirSync(join(directory, "folder"));
  for (const name of ["file", "folder"]) {
    const error = await t.throwsAsync(newServer().listen(`unix:${join(directory, name)}`));
    t.is((error as Error & { code: string }).code, "PATH_EXISTS");
  }
  t.is(statSync(join(directory, "file")).size, 8);
  const missing = await t.throwsAsync(newServer().listen(`unix:${join(directory, "none", "nbd.sock")}`));
  t.is((missing as Error & { code: string }).code, "PATH_NOT_FOUND");
});

test("TCP: port 0 picks one, a port in use is refused, several addresses work at once", async (t) => {
  const { server, exports, target, directory } = await startLab(t);
  target.bytes.write("hello", 0);
  exports.targets.set("a b", target);
  const first = await server.listen("127.0.0.1:0");
  t.regex(first, /^nbd:\/\/127\.0\.0\.1:[1-9]\d*$/);
  const second = await server.listen(`unix:${join(directory, "second.sock")}`);
  for (const base of [first, second]) {
    const client = await RawClient.open(base, "a b");
    t.is((await client.request({ command: CMD.READ, length: 5 })).data.toString(), "hello");
  }
  const error = await t.throwsAsync(newServer().listen(first.replace("nbd://", "")));
  t.is((error as Error & { code: string }).code, "PATH_HELD");
  const unknown = await t.throwsAsync(newServer().listen("host.invalid:1"));
  t.is((unknown as Error & { code: string }).code, "INVALID_ARGUMENT");
});

test("TCP: the peer is reported with its address", async (t) => {
  const { server, events } = await startLab(t);
  const client = await RawClient.open(await server.listen("127.0.0.1:0"), "x");
  t.deepEqual(events, [`connect x 127.0.0.1:${client.socket.localPort}`]);
});

test("TCP: IPv6", async (t) => {
  const probe = createServer();
  const available = await new Promise<boolean>((resolve) => {
    probe.once("error", () => resolve(false));
    probe.listen({ host: "::1", port: 0 }, () => resolve(true));
  });
  probe.close();
  if (!available) {
    t.log("skipped: this machine has no IPv6 loopback");
    t.pass();
    return;
  }
  const { server } = await startLab(t);
  const base = await server.listen("[::1]:0");
  t.is((await (await RawClient.open(base, "x")).request({ command: CMD.READ, length: 1 })).error, "ok");
});
