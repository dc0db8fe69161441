// Files of documents: plain text, JSON Lines, CSV.

const LARGEST = 16 * 2 ** 20;
// What the column of documents may be called, the likeliest first.
const COLUMNS = [
  ...["text", "document", "passage", "content", "body", "chunk", "answer", "description", "title"],
  ...["文本", "内容", "文档", "正文", "段落", "答案", "描述", "标题"],
];

/** A file's documents and query, or an error whose message is a key of i18n.js. */
export class FileError extends Error {
  constructor(key, values = {}) {
    super(key);
    this.values = values;
  }
}

export async function readFile(file) {
  if (file.size > LARGEST) throw new FileError("bad_size");
  const [text, encoding] = decode(new Uint8Array(await file.arrayBuffer()));
  const ending = file.name.toLowerCase().match(/\.(\w+)$/)?.[1] ?? "";
  let found;
  if (["jsonl", "ndjson", "json"].includes(ending)) found = readJsonLines(text);
  else if (ending === "csv" || ending === "tsv") found = readTable(text, ending === "tsv" ? "\t" : separatorOf(text));
  else found = readText(text);
  if (!found.documents.length) throw new FileError("bad_empty");
  return { query: "", ...found, encoding };
}

/** UTF-8, or UTF-16 with its mark; what is neither is taken for GB18030, as older Chinese programs write. */
function decode(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return [new TextDecoder("utf-16le").decode(bytes), "UTF-16"];
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return [new TextDecoder("utf-16be").decode(bytes), "UTF-16"];
  if (bytes.subarray(0, 4096).includes(0)) throw new FileError("bad_kind");
  for (const encoding of ["utf-8", "gb18030"]) {
    try {
      return [new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll("\r\n", "\n"), encoding.toUpperCase()];
    } catch {
      // the next
    }
  }
  throw new FileError("bad_kind");
}

/** Documents of a text: a line each, or blocks with a blank line between. */
export function splitText(text, split) {
  return text
    .split(split === "block" ? /\n(?:[^\S\n]*\n)+/ : "\n")
    .map((part) => part.trim())
    .filter(Boolean);
}

/** Documents as one text, and how it is split: lines, unless a document has several. */
export function joinTexts(documents) {
  if (!documents.some((document) => document.includes("\n"))) return { text: documents.join("\n"), split: "line", changed: false };
  const blocks = documents.map((document) => document.trim().replace(/\n(?:[^\S\n]*\n)+/g, "\n"));
  const changed = blocks.some((block, i) => block !== documents[i].trim());
  return { text: blocks.join("\n\n"), split: "block", changed };
}

/** Lines or blocks, or JSON Lines under a name that does not say so. */
function readText(text) {
  if (/^\s*\{"/.test(text)) {
    try {
      return readJsonLines(text);
    } catch (error) {
      if (!(error instanceof FileError)) throw error; // else it only looked like JSON
    }
  }
  return { documents: splitText(text, /\n[^\S\n]*\n/.test(text.trim()) ? "block" : "line") };
}

function readJsonLines(text) {
  let query = "";
  const documents = [];
  const take = (row, line) => {
    const value = typeof row === "string" ? row : (row?.text ?? row?.document ?? row?.passage ?? row?.content);
    if (typeof row?.query === "string") query ||= row.query;
    if (typeof value === "string") documents.push(value.trim());
    else if (Array.isArray(row?.documents)) row.documents.forEach((each) => take(each, line));
    else throw new FileError("bad_json", { line });
  };
  try {
    const whole = JSON.parse(text); // a .json file: one array, or one object
    (Array.isArray(whole) ? whole : [whole]).forEach((row, i) => take(row, i + 1));
    return { query, documents: documents.filter(Boolean) };
  } catch (error) {
    if (error instanceof FileError) throw error;
  }
  text.split("\n").forEach((line, i) => {
    if (!line.trim()) return;
    let row;
    try {
      row = JSON.parse(line);
    } catch {
      throw new FileError("bad_json", { line: i + 1 });
    }
    take(row, i + 1);
  });
  return { query, documents: documents.filter(Boolean) };
}

/** What the first line has most of: Excel writes semicolons in many countries. */
function separatorOf(text) {
  const first = text.split("\n", 1)[0].replace(/"[^"]*"/g, "");
  const count = (separator) => first.split(separator).length - 1;
  const best = [",", ";", "\t"].reduce((top, each) => (count(each) > count(top) ? each : top));
  return count(best) ? best : "\0"; // a single column, in which commas are text
}

function readTable(text, separator) {
  const rows = cells(text, separator).filter((row) => row.some((cell) => cell.trim()));
  if (!rows.length) return { documents: [] };
  const names = rows[0].map((cell) => cell.trim().toLowerCase());
  let column = names.indexOf(COLUMNS.find((name) => names.includes(name)));
  const headed = column >= 0;
  if (!headed) {
    const length = (i) => rows.reduce((sum, row) => sum + (row[i]?.length ?? 0), 0);
    column = names.map((_, i) => i).reduce((best, i) => (length(i) > length(best) ? i : best), 0);
  }
  const body = headed ? rows.slice(1) : rows;
  const asked = headed ? names.indexOf("query") : -1;
  const query = asked >= 0 ? (body[0]?.[asked]?.trim() ?? "") : "";
  return { query, documents: body.map((row) => (row[column] ?? "").trim()).filter(Boolean), guessed: headed ? null : column + 1 };
}

/** CSV by RFC 4180: quotes around a cell, doubled within it. Spaces outside the quotes are nobody's text. */
function cells(text, separator) {
  const rows = [[]];
  const ends = new RegExp(`[\\n${separator}]`, "g");
  let at = 0;
  const skipSpaces = () => {
    while (text[at] === " ") at += 1;
  };
  while (at < text.length) {
    const begin = at;
    const wrong = () => new FileError("bad_csv", { line: text.slice(0, begin).split("\n").length });
    let cell;
    skipSpaces();
    if (text[at] === '"') {
      const parts = [];
      do {
        const end = text.indexOf('"', at + 1);
        if (end < 0) throw wrong();
        parts.push(text.slice(at + 1, end));
        at = end + 1;
      } while (text[at] === '"');
      cell = parts.join('"');
      skipSpaces();
      if (text[at] === "\r") at += 1;
    } else {
      ends.lastIndex = begin;
      at = ends.exec(text)?.index ?? text.length;
      cell = text.slice(begin, at);
    }
    rows.at(-1).push(cell);
    if (text[at] === "\n") rows.push([]);
    else if (at < text.length && text[at] !== separator) throw wrong();
    at += 1;
  }
  return rows;
}
