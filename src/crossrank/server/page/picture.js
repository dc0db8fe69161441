// Draw the rankings as an image, on a canvas.

import { documents as counted, number, t } from "./i18n.js";
import { columnsOf, figure, isKept, isKeptByAny } from "./results.js";

const MAX_ROWS = 30;
const [ROW, GAP, WIDTH, LINKS, MARGIN, TOP] = [70, 8, 470, 80, 32, 116];
const FONT = 'system-ui, -apple-system, "Segoe UI", "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif';

/** The current value of a colour of style.css. */
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Draw the first rows of the rankings; returns a PNG as a Blob. */
export function draw(results, infos, state) {
  const columns = columnsOf(results, infos);
  const rows = Math.min(MAX_ROWS, results.documents.length);
  const width = 2 * MARGIN + columns.length * WIDTH + (columns.length - 1) * LINKS;
  const height = TOP + rows * (ROW + GAP) + 44;
  const canvas = document.createElement("canvas");
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  pen.fillStyle = colour("paper");
  pen.fillRect(0, 0, width, height);
  pen.textBaseline = "alphabetic";
  const write = (text, x, y, size, name, weight = 400) => {
    pen.font = `${weight} ${size}px ${FONT}`;
    pen.fillStyle = colour(name);
    pen.fillText(text, x, y);
  };
  write(fitted(pen, results.query, width - 2 * MARGIN, `650 24px ${FONT}`), MARGIN, 48, 24, "ink", 650);
  const y = (place) => TOP + place * (ROW + GAP);
  const kept = (i, document) => (columns[i].model ? isKept(document, state) : true);
  columns.forEach((column, i) => {
    const x = MARGIN + i * (WIDTH + LINKS);
    write(column.title, x, TOP - 18, 16, column.model ? "blue" : "ochre", 650);
    const maxKeywordScore = Math.max(1e-9, ...column.order.map((document) => document.keyword_score));
    const leftPlaces = i ? new Map(columns[i - 1].order.map((document, place) => [document.index, place])) : null;
    /** The tags behind the number of a card, as on the page. */
    const tags = (document, place) => {
      if (!i) return isKeptByAny(results.answers, document.index, state) ? [] : [t("dropped")];
      const up = leftPlaces.get(document.index) - place;
      return [up > 0 ? `▲ ${up}` : up < 0 ? `▼ ${-up}` : "=", ...(document.truncated ? [t("cut")] : [])];
    };
    column.order.slice(0, rows).forEach((document, place) => {
      if (!kept(i, document)) return;
      pen.fillStyle = colour("card");
      pen.strokeStyle = colour("line");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.roundRect(x, y(place), WIDTH, ROW, 9);
      pen.fill();
      pen.stroke();
      write(String(place + 1), x + 12, y(place) + 41, 16, "soft", 650);
      pen.font = `400 14.5px ${FONT}`;
      wrapped(pen, results.documents[document.index], WIDTH - 62, 2).forEach((line, k) => write(line, x + 46, y(place) + 22 + 19 * k, 14.5, "ink"));
      const share = column.model ? document.score : document.keyword_score / maxKeywordScore;
      bar(pen, x + 46, y(place) + 54, 180, share, colour(column.model ? "blue" : "ochre"));
      const value = column.model ? figure(document[state.scale], state.scale) : document.keyword_score.toFixed(2);
      write([value, ...tags(document, place)].join("    "), x + 238, y(place) + 60, 12.5, "soft");
    });
    if (!i) return;
    column.order.slice(0, rows).forEach((document, place) => {
      const from = leftPlaces.get(document.index);
      if (from >= rows || !kept(i, document) || !kept(i - 1, columns[i - 1].order[from])) return;
      const [left, right] = [x - LINKS + 4, x - 4];
      pen.strokeStyle = colour(place < from ? "blue" : place > from ? "down" : "edge");
      pen.lineWidth = place < from ? 2 : 1.3;
      pen.beginPath();
      pen.moveTo(left, y(from) + ROW / 2);
      pen.bezierCurveTo((left + right) / 2, y(from) + ROW / 2, (left + right) / 2, y(place) + ROW / 2, right, y(place) + ROW / 2);
      pen.stroke();
    });
  });
  const all = results.documents.length;
  write(rows < all ? t("picture_rows", { n: number(rows), documents: counted(all) }) : "CrossRank", MARGIN, height - 20, 12.5, "soft", 600);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function bar(pen, x, y, width, share, filled) {
  pen.fillStyle = colour("line");
  pen.beginPath();
  pen.roundRect(x, y, width, 6, 3);
  pen.fill();
  if (!share) return;
  pen.fillStyle = filled;
  pen.beginPath();
  pen.roundRect(x, y, Math.max(2, width * share), 6, 3);
  pen.fill();
}

function fitted(pen, text, width, font) {
  pen.font = font;
  return wrapped(pen, text, width, 1)[0] ?? "";
}

/** Break a text into at most ``maxLines`` lines: at spaces, or between any two CJK characters. */
function wrapped(pen, text, width, maxLines) {
  const words = text.slice(0, 400).replace(/\s+/g, " ").match(/[\u1100-\uffdc]|[^\s\u1100-\uffdc]+\s?|\s/g) ?? [];
  const lines = [""];
  for (const word of words) {
    if (pen.measureText(lines.at(-1) + word.trimEnd()).width <= width) lines[lines.length - 1] += word;
    else if (lines.length < maxLines) lines.push(word);
    else {
      let last = lines.at(-1).trimEnd();
      while (last && pen.measureText(`${last}…`).width > width) last = last.slice(0, -1);
      lines[lines.length - 1] = `${last}…`;
      break;
    }
  }
  return lines;
}
