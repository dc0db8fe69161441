// Read documents from files: plain text, JSON Lines and CSV.

const MAX_FILE_BYTES = 16 * 2 ** 20;
// Possible names of the column with the documents, most likely first.
const COLUMNS = [
  ...["text", "document", "passage", "content", "body", "chunk", "answer", "description", "title"],
  ...["文本", "内容", "文档", "正文", "段落", "答案", "描述", "标题"],
];

/** An error in a file. The message is a key of i18n.js, and ``values`` are its parameters. */
export class FileError extends Error {
  constructor(key, values = {}) {
    super(key);
    this.values = values;
  }
}

/** The documents and the query of a file; throws FileError. */
export async function readFile(file) {
  if (file.size > MAX_FILE_BYTES) throw new FileError("bad_size");
  const [text, encoding] = decode(new Uint8Array(await file.arrayBuffer()));
  const extension = file.name.toLowerCase().match(/\.(\w+)$/)?.[1] ?? "";
  let found;
  if (["jsonl", "ndjson", "json"].includes(extension)) found = readJsonLines(text);
  else if (extension === "csv" || extension === "tsv") found = readTable(text, extension === "tsv" ? "\t" : separatorOf(text));
  else found = readText(text);
  if (!found.documents.length) throw new FileError("bad_empty");
  return { query: "", ...found, encoding };
}

/** Decode UTF-8, UTF-16 with a byte order mark, or GB18030, which older Chinese programs write. */
function decode(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return [new TextDecoder("utf-16le").decode(bytes), "UTF-16"];
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return [new TextDecoder("utf-16be").decode(bytes), "UTF-16"];
  if (bytes.subarray(0, 4096).includes(0)) throw new FileError("bad_kind");
  for (const encoding of ["utf-8", "gb18030"]) {
    try {
      return [new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll("\r\n", "\n"), encoding.toUpperCase()];
    } catch {
      // try the next encoding
    }
  }
  throw new FileError("bad_kind");
}

/** Split a text into documents: one per line, or blocks separated by blank lines. */
export function splitText(text, split) {
  return text
    .split(split === "block" ? /\n(?:[^\S\n]*\n)+/ : "\n")
    .map((part) => part.trim())
    .filter(Boolean);
}

/** Join documents into one text: one per line, or in blocks if a document has several lines. */
export function joinTexts(documents) {
  if (!documents.some((document) => document.includes("\n"))) return { text: documents.join("\n"), split: "line", changed: false };
  const blocks = documents.map((document) => document.trim().replace(/\n(?:[^\S\n]*\n)+/g, "\n"));
  const changed = blocks.some((block, i) => block !== documents[i].trim());
  return { text: blocks.join("\n\n"), split: "block", changed };
}

/** Read lines or blocks, or JSON Lines in a file with another extension. */
function readText(text) {
  if (/^\s*\{"/.test(text)) {
    try {
      return readJsonLines(text);
    } catch (error) {
      if (!(error instanceof FileError)) throw error; // a FileError means that it only looked like JSON
    }
  }
  return { documents: splitText(text, /\n[^\S\n]*\n/.test(text.trim()) ? "block" : "line") };
}

function readJsonLines(text) {
  let query = "";
  const documents = [];
  const addRow = (row, line) => {
    const value = typeof row === "string" ? row : (row?.text ?? row?.document ?? row?.passage ?? row?.content);
    if (typeof row?.query === "string") query ||= row.query;
    if (typeof value === "string") documents.push(value.trim());
    else if (Array.isArray(row?.documents)) row.documents.forEach((document) => addRow(document, line));
    else throw new FileError("bad_json", { line });
  };
  try {
    const whole = JSON.parse(text); // a .json file has one array or one object
    (Array.isArray(whole) ? whole : [whole]).forEach((row, i) => addRow(row, i + 1));
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
    addRow(row, i + 1);
  });
  return { query, documents: documents.filter(Boolean) };
}

/** The separator that is most frequent in the first line; in many countries Excel writes semicolons. */
function separatorOf(text) {
  const first = text.split("\n", 1)[0].replace(/"[^"]*"/g, "");
  const count = (separator) => first.split(separator).length - 1;
  const best = [",", ";", "\t"].reduce((top, candidate) => (count(candidate) > count(top) ? candidate : top));
  return count(best) ? best : "\0"; // there is only one column
}

function readTable(text, separator) {
  const rows = cells(text, separator).filter((row) => row.some((cell) => cell.trim()));
  if (!rows.length) return { documents: [] };
  const names = rows[0].map((cell) => cell.trim().toLowerCase());
  let column = names.indexOf(COLUMNS.find((name) => names.includes(name)));
  const hasHeader = column >= 0;
  if (!hasHeader) {
    const length = (i) => rows.reduce((sum, row) => sum + (row[i]?.length ?? 0), 0);
    column = names.map((_, i) => i).reduce((best, i) => (length(i) > length(best) ? i : best), 0);
  }
  const body = hasHeader ? rows.slice(1) : rows;
  const queryColumn = hasHeader ? names.indexOf("query") : -1;
  const query = queryColumn >= 0 ? (body[0]?.[queryColumn]?.trim() ?? "") : "";
  return { query, documents: body.map((row) => (row[column] ?? "").trim()).filter(Boolean), guessed: hasHeader ? null : column + 1 };
}

/** Parse CSV (RFC 4180): cells may be quoted, and quotes in them are doubled. Spaces around the quotes are ignored. */
function cells(text, separator) {
  const rows = [[]];
  const ends = new RegExp(`[\\n${separator}]`, "g");
  let at = 0;
  const skipSpaces = () => {
    while (text[at] === " ") at += 1;
  };
  while (at < text.length) {
    const begin = at;
    const quoteError = () => new FileError("bad_csv", { line: text.slice(0, begin).split("\n").length });
    let cell;
    skipSpaces();
    if (text[at] === '"') {
      const parts = [];
      do {
        const end = text.indexOf('"', at + 1);
        if (end < 0) throw quoteError();
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
    else if (at < text.length && text[at] !== separator) throw quoteError();
    at += 1;
  }
  return rows;
}
