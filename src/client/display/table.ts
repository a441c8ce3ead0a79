/**
 * Tables for people: columns separated by blanks, numbers to the right, empty cells `----`, no colours, no borders,
 * so that `awk` reads them as well as eyes do.
 */

export interface Column<Row> {
  readonly title: string;
  readonly align?: "left" | "right";
  /** Cells it is at least as wide as: what comes one row at a time cannot look ahead. */
  readonly widthMin?: number;
  cell(row: Row): string;
}

export const EMPTY_CELL = "----";
const GAP = "  ";

/** The whole table with its title line, every line ended. A table without rows is its title line. */
export function renderTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = rows.map((row) => columns.map((column) => visible(column.cell(row))));
  const widths = columns.map((column, index) =>
    cells.reduce(
      (width, line) => Math.max(width, displayWidth(line[index] ?? "")),
      Math.max(displayWidth(column.title), column.widthMin ?? 0),
    ),
  );
  const lines = [columns.map((column) => column.title), ...cells];
  return lines.map((line) => renderLine(line, columns, widths)).join("");
}

/** One row of a table whose other rows are not known, without its end of line. */
export function renderRow<Row>(columns: readonly Column<Row>[], row: Row): string {
  const widths = columns.map((column) => column.widthMin ?? 0);
  const cells = columns.map((column) => visible(column.cell(row)));
  return renderLine(cells, columns, widths).trimEnd();
}

function renderLine<Row>(line: readonly string[], columns: readonly Column<Row>[], widths: readonly number[]): string {
  const padded = line.map((text, index) => {
    const fill = " ".repeat(Math.max(0, (widths[index] ?? 0) - displayWidth(text)));
    return columns[index]?.align === "right" ? fill + text : text + fill;
  });
  return `${padded.join(GAP).trimEnd()}\n`;
}

/** Control characters would break the table (and the terminal): they are shown escaped. */
function visible(text: string): string {
  if (text === "") return EMPTY_CELL;
  return text.replace(/[\p{Cc}\p{Cf}]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return `\\u{${code.toString(16)}}`;
  });
}

/** Cells on the terminal: wide East Asian characters take two, combining marks none. */
function displayWidth(text: string): number {
  let width = 0;
  for (const character of text) {
    if (/\p{Mark}/u.test(character)) continue;
    width += WIDE.test(character) ? 2 : 1;
  }
  return width;
}

const WIDE =
  /[\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\p{Emoji_Presentation}\uff01-\uff60]/u;
