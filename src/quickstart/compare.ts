/** Byte for byte: what a volume holds, read over NBD, against what it should hold by the writer's log. */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import type { Image } from "./image.ts";
import type { NbdClient } from "./nbd-client.ts";
import { PIECE_BYTES, type RecordLog } from "./record-log.ts";

/** Pieces read ahead over NBD. */
const AHEAD = 4;

export interface Comparison {
  /** First byte that differs; undefined when all are equal. */
  readonly firstDifference: number | undefined;
  readonly expectedSha256: string;
  readonly actualSha256: string;
}

/** Compares a volume with the original image after the writer's records 1 to `record`. */
export async function compareWithReplay(
  volume: NbdClient,
  image: Image,
  log: RecordLog,
  record: number,
): Promise<Comparison> {
  const expected = createHash("sha256");
  const actual = createHash("sha256");
  let firstDifference: number | undefined;
  const original = await open(image.originalPath, "r");
  const reads: Promise<Buffer>[] = [];
  try {
    let asked = 0;
    for (let at = 0; at < image.sizeBytes; at += PIECE_BYTES) {
      for (; asked < image.sizeBytes && reads.length < AHEAD; asked += PIECE_BYTES) {
        const read = volume.read(asked, Math.min(PIECE_BYTES, image.sizeBytes - asked));
        read.catch(() => {}); // several fail at once when the connection ends; the first is awaited below
        reads.push(read);
      }
      const piece = Buffer.alloc(Math.min(PIECE_BYTES, image.sizeBytes - at));
      await readInto(original, piece, at);
      log.replay(piece, at, record);
      const found = (await reads.shift()) ?? Buffer.alloc(0);
      expected.update(piece);
      actual.update(found);
      firstDifference ??= differenceOf(piece, found, at);
    }
  } finally {
    await original.close();
  }
  return { firstDifference, expectedSha256: expected.digest("hex"), actualSha256: actual.digest("hex") };
}

/** Past the end of the original the working copy has zeros: the rest of the piece stays as it is. */
async function readInto(file: Awaited<ReturnType<typeof open>>, piece: Buffer, offsetBytes: number): Promise<void> {
  for (let at = 0; at < piece.length; ) {
    const { bytesRead } = await file.read(piece, at, piece.length - at, offsetBytes + at);
    if (bytesRead === 0) return;
    at += bytesRead;
  }
}

function differenceOf(expected: Buffer, found: Buffer, offsetBytes: number): number | undefined {
  if (expected.equals(found)) return undefined;
  const at = expected.findIndex((byte, index) => byte !== found[index]);
  return offsetBytes + Math.max(0, at);
}
