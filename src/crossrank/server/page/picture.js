// The rankings as a picture, drawn on a canvas.

import { documents as counted, number, t } from "./i18n.js";
import { columnsOf, figure, isKept, isKeptByAny } from "./results.js";

const MOST = 30; // rows
const [ROW, GAP, WIDE, LINKS, EDGE, TOP] = [70, 8, 470, 80, 32, 116];
const FONT = 'system-ui, -apple-system, "Segoe UI", "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif';

/** A colour of style.css as it is now. */
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** A PNG of the best rows, as a Blob. */
export function draw(results, infos, state) {
  const columns = columnsOf(results, infos);
  const rows = Math.min(MOST, results.documents.length);
  const width = 2 * EDGE + columns.length * WIDE + (columns.length - 1) * LINKS;
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
  write(fitted(pen, results.query, width - 2 * EDGE, `650 24px ${FONT}`), EDGE, 48, 24, "ink", 650);
  const y = (place) => TOP + place * (ROW + GAP);
  const kept = (i, each) => (columns[i].model ? isKept(each, state) : true);
  columns.forEach((column, i) => {
    const x = EDGE + i * (WIDE + LINKS);
    write(column.title, x, TOP - 18, 16, column.model ? "blue" : "ochre", 650);
    const most = Math.max(1e-9, ...column.order.map((each) => each.keyword_score));
    const places = i ? new Map(columns[i - 1].order.map((each, place) => [each.index, place])) : null;
    /** What stands behind the number on the page too. */
    const tags = (each, place) => {
      if (!i) return isKeptByAny(results.answers, each.index, state) ? [] : [t("dropped")];
      const up = places.get(each.index) - place;
      return [up > 0 ? `▲ ${up}` : up < 0 ? `▼ ${-up}` : "=", ...(each.truncated ? [t("cut")] : [])];
    };
    column.order.slice(0, rows).forEach((each, place) => {
      if (!kept(i, each)) return;
      pen.fillStyle = colour("card");
      pen.strokeStyle = colour("line");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.roundRect(x, y(place), WIDE, ROW, 9);
      pen.fill();
      pen.stroke();
      write(String(place + 1), x + 12, y(place) + 41, 16, "soft", 650);
      pen.font = `400 14.5px ${FONT}`;
      wrapped(pen, results.documents[each.index], WIDE - 62, 2).forEach((line, k) => write(line, x + 46, y(place) + 22 + 19 * k, 14.5, "ink"));
      const share = column.model ? each.score : each.keyword_score / most;
      bar(pen, x + 46, y(place) + 54, 180, share, colour(column.model ? "blue" : "ochre"));
      const value = column.model ? figure(each[state.scale], state.scale) : each.keyword_score.toFixed(2);
      write([value, ...tags(each, place)].join("    "), x + 238, y(place) + 60, 12.5, "soft");
    });
    if (!i) return;
    column.order.slice(0, rows).forEach((each, place) => {
      const from = places.get(each.index);
      if (from >= rows || !kept(i, each) || !kept(i - 1, columns[i - 1].order[from])) return;
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
  write(rows < all ? t("picture_rows", { n: number(rows), documents: counted(all) }) : "CrossRank", EDGE, height - 20, 12.5, "soft", 600);
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

/** Lines of a text, at spaces or, where there are none, anywhere. */
function wrapped(pen, text, width, most) {
  const words = text.slice(0, 400).replace(/\s+/g, " ").match(/[\u1100-\uffdc]|[^\s\u1100-\uffdc]+\s?|\s/g) ?? [];
  const lines = [""];
  for (const word of words) {
    if (pen.measureText(lines.at(-1) + word.trimEnd()).width <= width) lines[lines.length - 1] += word;
    else if (lines.length < most) lines.push(word);
    else {
      let last = lines.at(-1).trimEnd();
      while (last && pen.measureText(`${last}…`).width > width) last = last.slice(0, -1);
      lines[lines.length - 1] = `${last}…`;
      break;
    }
  }
  return lines;
}
