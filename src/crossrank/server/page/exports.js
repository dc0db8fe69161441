// Export the results as files, or as code that reproduces them.

import { long } from "./api.js";
import { isKept } from "./results.js";

const keptByRank = (answer, state) =>
  [...answer.documents].sort((a, b) => a.rank - b.rank).filter((document) => isKept(document, state));

export function asJson(results, state) {
  const rankings = results.answers.map((answer) => ({
    model: answer.model,
    tokens: answer.usage.total_tokens,
    query_truncated: answer.query_truncated,
    results: keptByRank(answer, state).map(({ index, rank, score, logit, truncated, window, tokens, keyword_rank, keyword_score }) => ({
      ...{ rank, index, score, logit, truncated, window, tokens, keyword_rank, keyword_score },
      text: results.documents[index],
    })),
  }));
  const kept = { top_n: state.topN ?? results.documents.length, threshold: state.threshold };
  return `${JSON.stringify({ query: results.query, ...kept, rankings }, null, 2)}\n`;
}

export function asCsv(results, state) {
  const cell = (value) => {
    // A spreadsheet would run such a text as a formula, unless a ' stands before it.
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = ["rank", "index", "score", "logit", "keyword_rank", "keyword_score", "truncated", "tokens"];
  const rows = results.answers.flatMap((answer) =>
    keptByRank(answer, state).map((document) => [answer.model, ...names.map((name) => document[name]), results.documents[document.index]]),
  );
  // The byte order mark tells Excel that the file is UTF-8.
  return `\ufeff${[["model", ...names, "text"], ...rows].map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}

/** The kept documents are always the best n, so top_n alone expresses the threshold too. */
export function asCurl(results, state, base, secured) {
  const header = secured ? ' \\\n  -H "Authorization: Bearer $CROSSRANK_API_KEY"' : "";
  return results.answers
    .map((answer) => {
      const kept = keptByRank(answer, state).length;
      if (!kept) return `# ${answer.model}: no document has a score of at least ${state.threshold}`;
      const body = { model: answer.model, query: results.query, documents: results.documents, top_n: kept, ...long(results.windows) };
      return `curl -s '${base}v2/rerank'${header} --data-binary @- <<'END'\n${JSON.stringify(body)}\nEND`;
    })
    .join("\n");
}

export function asPython(results, state, infos) {
  const options = [];
  if (state.topN && state.topN < results.documents.length) options.push(`top_n=${state.topN}`);
  if (state.threshold > 0) options.push(`threshold=${state.threshold}`);
  const lines = ["from crossrank import Reranker", ""];
  // A JSON string is a valid Python string.
  lines.push(`query = ${JSON.stringify(results.query)}`, "documents = [", ...results.documents.map((text) => `    ${JSON.stringify(text)},`), "]");
  for (const answer of results.answers) {
    const info = infos.find((model) => model.name === answer.model);
    const source = JSON.stringify(info?.source ?? answer.model);
    const revision = info?.revision ? `, revision=${JSON.stringify(info.revision)}` : "";
    const precise = info?.engine ? `, precision=${JSON.stringify(info.precision)}, max_length=${info.max_length}` : "";
    const windows = answer.documents.some((document) => document.window) ? ', long="windows"' : "";
    lines.push("", `reranker = Reranker(${source}${revision}${precise}${windows})`, `for hit in reranker.rank(${["query, documents", ...options].join(", ")}):`);
    lines.push('    print(hit.rank, hit.index, f"{hit.score:.4f}", hit.text)');
  }
  return `${lines.join("\n")}\n`;
}

/** Let the browser download content as a file. */
export function save(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
