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

const KINDS = { 401: "key", 408: "late", 429: "busy", 503: "loading", 504: "late" };

async function ask(path, options) {
  const headers = { "x-client-name": "playground" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  let body;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    body = await response.json();
  } catch (error) {
    if (options.signal?.aborted) throw new Problem("stopped");
    throw new Problem(response && !response.ok ? "failed" : "lost", String(error));
  }
  if (response.ok) return body;
  const message = body?.error?.message ?? body?.message ?? `HTTP ${response.status}`;
  const kind = KINDS[response.status] ?? (response.status < 500 ? "refused" : "failed");
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
