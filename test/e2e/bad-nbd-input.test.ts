/** Bad input at the NBD door of a real daemon; the door's own tests are in test/nbd. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { connect as connectSocket } from "node:net";
import { join } from "node:path";
import test from "ava";
import { all, call, DaemonFixture } from "../server/fixture.ts";
import { pause, writeBlocks } from "../support/daemon.ts";
import { needPythonModule, SYSTEM_PYTHON } from "../support/tools.ts";

const MiB = 1 << 20;

test("NBD: beyond the end, too large, on a read-only export, of an unknown name", async (t) => {
  if (!needPythonModule(t, "nbd", "python3-libnbd")) return;
  const fixture = await DaemonFixture.start(t);
  await fixture.create("a", MiB, "rw");
  await fixture.create("b", MiB, "ro");
  const uri = async (name: string, readOnly: boolean) =>
    (await call(fixture.clients.exports, "addExport", { name, readOnly, requestId: "" })).export?.uri ?? "";
  const script = `
import nbd, sys, errno
def failing(uri, act, *wanted):
    h = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(uri)
    try:
        act(h)
    except nbd.Error as error:
        assert error.errnum in wanted, (error.errnum, error.string)
    else:
        raise SystemExit("no error")
    return h
rw, ro = sys.argv[1], sys.argv[2]
failing(rw, lambda h: h.pread(512, ${MiB}), errno.EINVAL, errno.ENOSPC).pread(512, 0)
failing(rw, lambda h: h.pwrite(b"x" * 1024, ${MiB} - 512), errno.EINVAL, errno.ENOSPC).pread(512, 0)
failing(rw, lambda h: h.zero(${MiB}, 512), errno.EINVAL, errno.ENOSPC)
failing(rw, lambda h: h.pread(33 << 20, 0), errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW, errno.ENOTCONN)
failing(ro, lambda h: h.pwrite(b"x" * 512, 0), errno.EPERM).pread(512, 0)
failing(ro, lambda h: h.trim(512, 0), errno.EPERM)
h = nbd.NBD()
try:
    h.connect_uri(rw.replace("g1d1", "nobody"))
except nbd.Error:
    pass
else:
    raise SystemExit("connected to nobody")
h = nbd.NBD(); h.connect_uri(rw); h.pwrite(b"y" * 512, 0); assert h.pread(512, 0) == bytearray(b"y" * 512)
`;
  const { status, stderr } = spawnSync(SYSTEM_PYTHON, ["-c", script, await uri("rw", false), await uri("ro", true)], {
    encoding: "utf8",
  });
  t.is(status, 0, stderr);
});

test("NBD: a client that vanishes in the middle of a write: the write did not happen, everybody else goes on", async (t) => {
  const fixture = await DaemonFixture.start(t);
  await fixture.create("a", MiB, "victim");
  await writeBlocks(fixture.clients, "victim", 0, Buffer.alloc(MiB, 6));
  await call(fixture.clients.exports, "addExport", { name: "victim", readOnly: false, requestId: "" });
  for (const sent of [0, 1, 4096, 65535]) {
    const socket = connectSocket(join(fixture.data, "run/nbd.sock"));
    await once(socket, "connect");
    socket.write(writeRequest("g1d1", 0, 65536, sent));
    await pause(20); // so that it has been read as far as it goes
    socket.destroy();
    await once(socket, "close");
  }
  for (;;) {
    const { export: one } = await call(fixture.clients.exports, "getExport", { name: "victim" });
    if (one?.connections === 0) break;
    await pause(10);
  }
  const whole = { name: "victim", offsetBytes: 0n, lengthBytes: 0n };
  const content = Buffer.concat((await all(fixture.clients.data.readBlocks(whole))).map(({ data }) => data));
  t.true(
    content.every((byte) => byte === 6),
    "no half of a write is on the volume",
  );
  await writeBlocks(fixture.clients, "victim", 0, Buffer.alloc(8192, 7));
});

/** A client's handshake and a write of which only the first bytes of the payload are sent. */
function writeRequest(exportName: string, offset: number, length: number, sent: number): Buffer {
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(3); // fixed newstyle, no zeroes
  const option = Buffer.alloc(16);
  option.write("IHAVEOPT");
  option.writeUInt32BE(1, 8); // NBD_OPT_EXPORT_NAME
  option.writeUInt32BE(exportName.length, 12);
  const request = Buffer.alloc(28);
  request.writeUInt32BE(0x25609513);
  request.writeUInt16BE(1, 6); // NBD_CMD_WRITE
  request.writeBigUInt64BE(42n, 8);
  request.writeBigUInt64BE(BigInt(offset), 16);
  request.writeUInt32BE(length, 24);
  return Buffer.concat([flags, option, Buffer.from(exportName), request, Buffer.alloc(sent, 9)]);
}
