/** `tidemark events [--follow] [--subject NAME]` */
import { BoxServiceClient, Event } from "../../gen/tidemark/v1/box.ts";
import type { CommandContext } from "../context.ts";
import { type Column, renderRow } from "../display/table.ts";
import { formatTime } from "../display/units.ts";

/** With --json both the kept events and the followed ones are `Event` objects, one a line. */
export async function events(
  context: CommandContext,
  options: { readonly follow?: boolean; readonly subject?: string },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(BoxServiceClient);
  const subject = options.subject ?? "";
  let lastId = 0n;
  const fetch = (at: { pageSize: number; pageToken: string }) =>
    connection.unary(client, client.listEvents, { ...at, subject });
  for await (const page of connection.pages(fetch)) {
    for (const event of page.events) {
      show(context, event);
      lastId = event.id;
    }
  }
  if (options.follow !== true) return;
  for await (const seen of connection.serverStream(client, client.watchEvents, { afterId: lastId, subject })) {
    if (seen.event !== undefined) show(context, seen.event);
  }
}

/** As wide as the longest type, and as most names. */
const COLUMNS: readonly Column<Event>[] = [
  { title: "TIME", cell: (event) => formatTime(event.time) },
  { title: "TYPE", widthMin: 18, cell: (event) => event.type },
  { title: "SUBJECT", widthMin: 7, cell: (event) => event.subject },
  { title: "MESSAGE", cell: (event) => event.message },
];

function show(context: CommandContext, event: Event): void {
  if (context.output.json) context.output.message(Event, event);
  else context.output.line(renderRow(COLUMNS, event));
}
