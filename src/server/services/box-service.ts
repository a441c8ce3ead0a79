/** BoxService: converts, and calls domain/box.ts, domain/watches.ts and domain/scrubs.ts. */
import type {
  BoxServiceServer,
  ScrubRequest,
  ScrubResponse,
  WatchEventsRequest,
  WatchEventsResponse,
} from "../../gen/tidemark/v1/box.ts";
import { exactNumber, type ProcessFacts, toBox, toEvent, toFinding, toScrubResponse } from "../convert.ts";
import { serverStream, unary } from "../handlers.ts";
import type { ServiceParts } from "./parts.ts";

export function boxService(parts: ServiceParts, processFacts: () => ProcessFacts): BoxServiceServer {
  const { box, log } = parts;
  return {
    getBox: unary(log, () => ({ box: toBox(box.facts(), processFacts()) })),
    diagnose: unary(log, async () => ({ findings: (await box.diagnose()).map(toFinding) })),
    listEvents: unary(log, ({ subject, ...request }) => {
      const { items, nextPageToken } = box.events(subject, request);
      return { events: items.map(toEvent), nextPageToken };
    }),
    watchEvents: serverStream(
      log,
      async function* ({ afterId, subject }: WatchEventsRequest, signal): AsyncGenerator<WatchEventsResponse> {
        const after = exactNumber(afterId, "after_id");
        for await (const rows of box.watches.events(after, subject, signal)) {
          // A message without an event is a beat.
          if (rows.length === 0) yield { event: undefined };
          for (const row of rows) yield { event: toEvent(row) };
        }
      },
    ),
    scrub: serverStream(log, async function* ({ volume }: ScrubRequest, signal): AsyncGenerator<ScrubResponse> {
      for await (const progress of box.scrubs.run(volume, signal)) yield toScrubResponse(progress);
    }),
  };
}
