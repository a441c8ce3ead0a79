/** What hosts and operators were told during a recorded run, each with its place in the log of the disks. */
import type { Write } from "../contents.ts";
import type { CopyFacts } from "../copy-book.ts";
import type { Point } from "../cut.ts";

export type HostEvent =
  | { readonly type: "sent" | "acked"; readonly write: Write }
  | { readonly type: "flush-sent" | "flush-acked"; readonly flush: number; readonly volume: number }
  | { readonly type: "point-asked"; readonly point: Point }
  | { readonly type: "point-refused"; readonly point: Point }
  | { readonly type: "point-fired"; readonly point: Point; readonly copies: readonly CopyFacts[] }
  | { readonly type: "end-asked"; readonly end: End }
  | { readonly type: "end-answered"; readonly end: End }
  | { readonly type: "listed"; readonly live: readonly CopyFacts[]; readonly ended: readonly CopyFacts[] }
  | { readonly type: "stopped" };

/** A cancel or an end of tracking. */
export interface End {
  readonly type: "cancel" | "stop-tracking";
  readonly id: string;
  /** Known once it has been answered; undefined when it was refused. */
  outcome: { readonly usable: boolean; readonly lives: boolean } | undefined;
}

export interface PlacedEvent {
  /** Entries of the disk log before it. */
  readonly at: number;
  readonly event: HostEvent;
}
