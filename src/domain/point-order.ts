/**
 * Point order: records of what the engine tells while a point is under way come in the order in which it happened.
 *
 * Role: what is told meanwhile may be the point's consequence, whose own record is still to come: it is held back until that
 * has been handed to the journal. What is told of an earlier run of one of its sessions came before the point, and is
 * recorded before it; else the row of a copy would end as that of the earlier run.
 */
import type { SessionStatus } from "../engine/engine-api.ts";

type Run = Pick<SessionStatus, "id" | "generation">;

interface Held {
  readonly run: Run;
  readonly record: () => void;
}

export class PointOrder {
  #pointsUnderWay = 0;
  #held: Held[] = [];

  /** A point is about to be fired; `end` follows in any case. */
  begin(): void {
    this.#pointsUnderWay++;
  }

  /** It has been fired, and its record is the next thing that the caller hands to the journal. */
  fired(sessions: readonly Run[]): void {
    const isEarlier = ({ run }: Held) =>
      sessions.some(({ id, generation }) => id === run.id && run.generation < generation);
    const earlier = this.#held.filter(isEarlier);
    this.#held = this.#held.filter((held) => !isEarlier(held));
    for (const { record } of earlier) record();
  }

  end(): void {
    if (--this.#pointsUnderWay === 0) for (const { record } of this.#held.splice(0)) record();
  }

  /** Of a session that no point under way has to do with: what is held back of it is recorded now. */
  release(id: string): void {
    const mine = this.#held.filter(({ run }) => run.id === id);
    this.#held = this.#held.filter(({ run }) => run.id !== id);
    for (const { record } of mine) record();
  }

  /** Records now, or behind the points that are under way. */
  record(run: Run, record: () => void): void {
    if (this.#pointsUnderWay > 0) this.#held.push({ run, record });
    else record();
  }
}
