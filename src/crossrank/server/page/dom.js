// Small help with the document. Text goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element: its class, then attributes, then children (strings are text). */
export function h(name, kind = "", attributes = {}, ...children) {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Offsets of the server count code points; those of a JavaScript string count UTF-16 units. */
export function slicer(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (start, end) => text.slice(start, end);
  const points = Array.from(text);
  return (start, end) => points.slice(start, end).join("");
}

/** A text with <mark> around its spans, as an array of children. */
export function marked(text, spans) {
  const part = slicer(text);
  const children = [];
  let end = 0;
  for (const [from, to] of spans) {
    children.push(part(end, from), h("mark", "", {}, part(from, to)));
    end = to;
  }
  children.push(part(end));
  return children;
}

export const pause = (ms, signal) =>
  new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
