/** Stopping the daemon while clients do not behave. */
import { connect, type Socket } from "node:net";
import test from "ava";
import { call, DaemonFixture } from "./fixture.ts";

/** An HTTP/2 client's first words: the preface and empty SETTINGS. */
const HELLO = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  Buffer.from("000000040000000000", "hex"),
]);

test("a client that keeps its end of the connection open does not keep the daemon from stopping", async (t) => {
  const fixture = await DaemonFixture.start(t);
  const socket: Socket = connect({ path: fixture.address.replace(/^unix:/, ""), allowHalfOpen: true });
  t.teardown(() => socket.destroy());
  socket.on("error", () => {});
  const spoken = new Promise((resolve) => socket.once("data", resolve));
  socket.write(HELLO);
  await spoken; // the server's own SETTINGS: it takes the client for one
  await call(fixture.clients.box, "getBox", {});
  await fixture.stop();
  t.pass();
});
