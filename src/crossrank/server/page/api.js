// Requests to the server, and their errors.

const KEY = "crossrank-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/**
 * A request that failed. Kinds: "stopped" (by the user), "lost" (no connection), "key" (missing or wrong API
 * key), "busy" (overloaded), "loading" (model not ready), "late" (timeout), "refused" (invalid request), "failed".
 */
export class RequestError extends Error {
  constructor(kind, message = "", retryAfter = 1) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter; // seconds
  }
}

// A proxy answers 502 if it cannot reach the server.
const KINDS = { 401: "key", 408: "late", 429: "busy", 502: "lost", 503: "loading", 504: "late" };

async function request(path, options) {
  const headers = { "x-client-name": "playground" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  let text;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    text = await response.text();
  } catch (error) {
    throw new RequestError(options.signal?.aborted ? "stopped" : "lost", String(error));
  }
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // The answer is not the server's; it may be a proxy's.
  }
  if (response.ok && body) return body;
  const message = body?.error?.message ?? body?.message ?? `HTTP ${response.status}`;
  const kind = KINDS[response.status] ?? (response.status >= 400 && response.status < 500 ? "refused" : "failed");
  throw new RequestError(kind, message, Number(response.headers.get("retry-after")) || 1);
}

export const info = (signal) => request("info", { signal });
export const compare = (body, signal) => request("compare", { method: "POST", body: JSON.stringify(body), signal });
export const explain = (body, signal) => request("explain", { method: "POST", body: JSON.stringify(body), signal });

/** The field of a request that says whether long documents are read in windows; null leaves it to the server. */
export const long = (windows) => (windows === null ? {} : { long: windows ? "windows" : "cut" });

/** Whether the server can be reached. */
export async function alive(signal) {
  try {
    return (await fetch("health/live", { signal, cache: "no-store", credentials: "omit" })).ok;
  } catch {
    return false;
  }
}
