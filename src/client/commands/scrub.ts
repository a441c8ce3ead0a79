/** `tidemark scrub [VOLUME]` */
import { BoxServiceClient, ScrubResponse } from "../../gen/tidemark/v1/box.ts";
import type { CommandContext } from "../context.ts";
import { countsText, findingLines, isLeft } from "../display/findings.ts";
import { formatSize } from "../display/units.ts";
import { EXIT_FAILURE, EXIT_OK } from "../failure.ts";

/** Exit code 0 when nothing is left that was found, 1 otherwise. */
export async function scrub(context: CommandContext, volume: string): Promise<number> {
  const connection = await context.connect();
  const client = connection.client(BoxServiceClient);
  let left = 0;
  let last: ScrubResponse | undefined;
  let findings = 0;
  for await (const seen of connection.serverStream(client, client.scrub, { volume })) {
    last = seen;
    const { finding } = seen;
    if (finding !== undefined) {
      findings++;
      if (isLeft(finding)) left++;
    }
    if (context.output.json) context.output.message(ScrubResponse, seen);
    else if (finding !== undefined) for (const line of findingLines(finding)) context.output.line(line);
  }
  if (!context.output.json && last !== undefined) {
    context.output.line(`${last.files} files, ${formatSize(last.bytes)}, ${countsText(findings, left)}`);
  }
  return left === 0 ? EXIT_OK : EXIT_FAILURE;
}
