/**
 * The state machine of an OPC or QuickOPC session, as data.
 *
 * Role: which request is possible in which state, where it leads, and what has to be copied and why. No I/O, no clock.
 * A missing cell means the request is refused (COPY_STATE or NOT_TRACKING).
 * Source: spec/11 "Copy session" (OPC, QuickOPC), "swsrpmake" Table 14.9, "swsrpcancel".
 */
import type { CopyReason } from "../engine-api.ts";

export type SessionState = "none" | "opc-copying" | "opc-failed" | "quick-copying" | "quick-tracking" | "quick-failed";

export type SessionEvent =
  | "start-opc"
  | "start-quickopc"
  | "restart"
  | "copied"
  | "error"
  | "stop-tracking"
  | "cancel"
  /** The destination is copied back to the source with OPC; the session itself stays. */
  | "restore"
  /** The same with QuickOPC. */
  | "restore-quickopc";

export interface Transition {
  readonly to: SessionState;
  /** What the new run, or the restoring session, copies. */
  readonly copies: "everything" | "difference" | "nothing";
  readonly reason?: CopyReason;
}

const everything = (to: SessionState, reason: CopyReason): Transition => ({ to, copies: "everything", reason });
const difference = (to: SessionState, reason: CopyReason): Transition => ({ to, copies: "difference", reason });
const nothing = (to: SessionState): Transition => ({ to, copies: "nothing" });

export const TRANSITIONS: Record<SessionState, Partial<Record<SessionEvent, Transition>>> = {
  none: {
    "start-opc": everything("opc-copying", "FIRST_COPY"),
    "start-quickopc": everything("quick-copying", "FIRST_COPY"),
  },
  "opc-copying": {
    "start-opc": everything("opc-copying", "NOT_TRACKED"),
    "start-quickopc": everything("quick-copying", "NOT_TRACKED"),
    restart: everything("opc-copying", "NOT_TRACKED"),
    copied: nothing("none"),
    error: nothing("opc-failed"),
    cancel: nothing("none"),
  },
  "opc-failed": {
    "start-opc": everything("opc-copying", "AFTER_FAILURE"),
    "start-quickopc": everything("quick-copying", "AFTER_FAILURE"),
    restart: everything("opc-copying", "AFTER_FAILURE"),
    cancel: nothing("none"),
  },
  "quick-copying": {
    "start-opc": everything("opc-copying", "KIND_CHANGED"),
    "start-quickopc": difference("quick-copying", "DIFFERENCE"),
    restart: difference("quick-copying", "DIFFERENCE"),
    copied: nothing("quick-tracking"),
    error: nothing("quick-failed"),
    "stop-tracking": nothing("opc-copying"),
    cancel: nothing("none"),
  },
  "quick-tracking": {
    "start-opc": everything("opc-copying", "KIND_CHANGED"),
    "start-quickopc": difference("quick-copying", "DIFFERENCE"),
    restart: difference("quick-copying", "DIFFERENCE"),
    error: nothing("quick-failed"),
    "stop-tracking": nothing("none"),
    cancel: nothing("none"),
    restore: difference("quick-tracking", "RESTORE_DIFFERENCE"),
  },
  "quick-failed": {
    "start-opc": everything("opc-copying", "AFTER_FAILURE"),
    "start-quickopc": everything("quick-copying", "AFTER_FAILURE"),
    restart: everything("quick-copying", "AFTER_FAILURE"),
    cancel: nothing("none"),
  },
};
