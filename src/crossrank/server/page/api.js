// What is asked of the server, and what it says when it does not answer.

const KEY = "crossrank-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/**
 * Why there is no answer. Kinds: "stopped" (by the user), "lost" (no connection), "key" (none, or a wrong
 * one), "busy", "loading", "late", "refused" (the request is wrong), "failed".
 */
export class Problem extends Error {
  constructor(kind, message = "", after = 1) {
    super(message);
    this.kind = kind;
    this.after = after; // seconds until another try may help
  }
}

// 502 is a proxy's word for a server that is away.
const KINDS = { 401: "key", 408: "late", 429: "busy", 502: "lost", 503: "loading", 504: "late" };

async function ask(path, options) {
  const headers = { "x-client-name": "playground" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  let text;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    text = await response.text();
  } catch (error) {
    throw new Problem(options.signal?.aborted ? "stopped" : "lost", String(error));
  }
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // The answer is somebody else's: a proxy's, say.
  }
  if (response.ok && body) return body;
  const message = body?.error?.message ?? body?.message ?? `HTTP ${response.status}`;
  const kind = KINDS[response.status] ?? (response.status >= 400 && response.status < 500 ? "refused" : "failed");
  throw new Problem(kind, message, Number(response.headers.get("retry-after")) || 1);
}

export const info = (signal) => ask("info", { signal });
export const compare = (body, signal) => ask("compare", { method: "POST", body: JSON.stringify(body), signal });
export const explain = (body, signal) => ask("explain", { method: "POST", body: JSON.stringify(body), signal });

/** Whether the server answers at all. */
export async function alive(signal) {
  try {
    return (await fetch("health/live", { signal, cache: "no-store", credentials: "omit" })).ok;
  } catch {
    return false;
  }
}
