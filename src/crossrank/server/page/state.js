// The whole state in the URL's fragment, which no browser sends to a server: it reaches no log.

const LONGEST = 200_000; // characters; longer links break on their way

const through = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

const toText = (bytes) => {
  let binary = "";
  for (let i = 0; i < bytes.length; i += 32768) binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
};

const toBytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));

/** A fragment for a state, or null where it would be too long. */
export async function pack(state) {
  const packed = await through(new TextEncoder().encode(JSON.stringify(state)), new CompressionStream("deflate-raw"));
  const text = `#1.${toText(packed)}`;
  return text.length > LONGEST ? null : text;
}

export const isLink = (fragment) => fragment.startsWith("#1.");

/** The state of a link's fragment, or null where it cannot be read: links are cut on their way. */
export async function unpack(fragment) {
  try {
    const bytes = await through(toBytes(fragment.slice(3)), new DecompressionStream("deflate-raw"));
    return checked(JSON.parse(new TextDecoder().decode(bytes)));
  } catch {
    return null;
  }
}

/** Anybody may have written a link: what is not as it should be is as if it were not there. */
function checked(found) {
  const text = (value) => (typeof value === "string" ? value : "");
  const within = (value, low, high, otherwise) =>
    typeof value === "number" && value >= low && value <= high ? value : otherwise;
  return {
    query: text(found.query),
    documents: text(found.documents),
    split: found.split === "block" ? "block" : "line",
    models: Array.isArray(found.models) ? found.models.filter((name) => typeof name === "string") : [],
    topN: within(found.topN, 1, 1e6, null),
    threshold: within(found.threshold, 0, 1, 0),
    scale: found.scale === "logit" ? "logit" : "score",
    why: Array.isArray(found.why) && typeof found.why[0] === "string" && Number.isInteger(found.why[1]) ? found.why.slice(0, 2) : null,
  };
}
