// Keep the state of the page in the fragment of the URL, which browsers do not send to the server.

const MAX_LINK_CHARACTERS = 200_000; // mail and chat programs break longer links

// A link of 200,000 characters can hold 150 MB, which would keep the page busy for minutes.
const MAX_STATE_BYTES = 1 << 20;

const through = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

const toText = (bytes) => {
  let binary = "";
  for (let i = 0; i < bytes.length; i += 32768) binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
};

const toBytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));

/** Decompress bytes, or throw a RangeError as soon as there are too many of them. */
async function decompressed(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let size = 0;
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    size += next.value.length;
    if (size > MAX_STATE_BYTES) {
      await reader.cancel();
      throw new RangeError("the link holds too much");
    }
    parts.push(next.value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Encode a state as a fragment, or return null if it would be too long. */
export async function encodeState(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  if (bytes.length > MAX_STATE_BYTES) return null;
  const compressed = await through(bytes, new CompressionStream("deflate-raw"));
  const text = `#1.${toText(compressed)}`;
  return text.length > MAX_LINK_CHARACTERS ? null : text;
}

export const isLink = (fragment) => fragment.startsWith("#1.");

/** Decode the state of a fragment, or return null if the link is damaged. */
export async function decodeState(fragment) {
  try {
    const bytes = await decompressed(toBytes(fragment.slice(3)));
    return validated(JSON.parse(new TextDecoder().decode(bytes)));
  } catch {
    return null;
  }
}

/** Validate a state, since anybody can write a link: invalid values are replaced by defaults. */
function validated(found) {
  const text = (value) => (typeof value === "string" ? value : "");
  const within = (value, low, high, fallback) =>
    typeof value === "number" && value >= low && value <= high ? value : fallback;
  return {
    query: text(found.query),
    documents: text(found.documents),
    split: found.split === "block" ? "block" : "line",
    windows: typeof found.windows === "boolean" ? found.windows : null,
    models: Array.isArray(found.models) ? found.models.filter((name) => typeof name === "string") : [],
    topN: within(found.topN, 1, 1e6, null),
    threshold: within(found.threshold, 0, 1, 0),
    scale: found.scale === "logit" ? "logit" : "score",
    why: Array.isArray(found.why) && typeof found.why[0] === "string" && Number.isInteger(found.why[1]) ? found.why.slice(0, 2) : null,
  };
}
