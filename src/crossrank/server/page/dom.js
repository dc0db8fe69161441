// Helpers to build the page. Text is always inserted as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** Create an element with a class, attributes and children; strings become text. */
export function h(name, className = "", attributes = {}, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A function that slices the text by code points, as the server counts; JavaScript counts UTF-16 units. */
export function slicer(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (start, end) => text.slice(start, end);
  const points = Array.from(text);
  return (start, end) => points.slice(start, end).join("");
}

/** The text with <mark> around the spans, as an array of children for ``h``. */
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

/** Wait for some milliseconds, or until the signal aborts. */
export const pause = (ms, signal) =>
  new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
