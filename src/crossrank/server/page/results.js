// Show the rankings side by side: keyword search, then one column per model, with lines between them.

import { $, h, marked, slicer } from "./dom.js";
import { number, t } from "./i18n.js";

const GAP = 8; // same as --gap in style.css
const CARD_CHARACTERS = 600; // a card shows this much of its document; the explanation shows all of it
const FIRST_CARDS = 40; // rows that are rendered at once; the others follow while the browser is idle
const MORE_CARDS = 150; // rows per further step
const MAX_ANIMATED = 100; // larger rankings are not animated

export const figure = (value, scale) => value.toFixed(scale === "logit" ? 2 : 4);

/** Whether a document of a model's ranking is kept: it is among the best n and has the model's minimum score. */
export const isKept = (document, state) =>
  document.rank <= (state.topN ?? Infinity) && document.score >= state.threshold && !(document.byFirst && state.threshold);

/** Whether any model keeps a document. */
export const isKeptByAny = (answers, index, state) => answers.some((answer) => isKept(answer.documents[index], state));

/** How many documents are kept. */
export const countKept = (documents, state) => documents.filter((document) => isKept(document, state)).length;

/** The columns to show: [{ model or null, title, note, order: documents, best first }] */
export function columnsOf(results, infos) {
  const by = (documents, name) => [...documents].sort((a, b) => a[name] - b[name]);
  const keywords = {
    model: null,
    title: t("keywords"),
    note: t("keywords_note"),
    order: by(results.answers[0].documents, "keyword_rank"),
  };
  const models = results.answers.map((answer) => {
    const info = infos.find((model) => model.name === answer.model);
    return {
      model: answer.model,
      title: answer.model,
      note: info?.engine ? t("model_note", { ...info, length: number(info.max_length) }) : "",
      order: by(answer.documents, "rank"),
    };
  });
  return [keywords, ...models];
}

export class Results {
  constructor({ onChoose }) {
    this.onChoose = onChoose;
    this.element = $("columns");
    this.shown = 1;
    this.results = null;
    this.columns = [];
    this.cards = []; // for each column, the cards by document index
    this.lists = [];
    this.notes = [];
    this.version = 0;
    this.element.addEventListener("click", (event) => this.choose(event));
    this.element.addEventListener("keydown", (event) => this.move(event));
    for (const name of ["pointerover", "focusin"]) this.element.addEventListener(name, (event) => this.light(event.target));
    for (const name of ["pointerleave", "focusout"]) this.element.addEventListener(name, () => this.light(null));
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - width) < 2) return;
      width = entry.contentRect.width;
      if (this.results) this.measure();
    }).observe(this.element);
  }

  /** Show results. If they are ``fresh``, the cards move from the keyword order to their places. */
  show(results, infos, state, fresh) {
    this.results = results;
    this.state = state;
    this.columns = columnsOf(results, infos);
    this.cards = this.columns.map(() => []);
    this.places = this.columns.map((column) => new Map(column.order.map((document, i) => [document.index, i])));
    this.version += 1;
    const children = [];
    this.notes = this.columns.map((column) => h("p", "", { title: column.note }, column.note));
    this.lists = this.columns.map((column, i) => {
      const list = h("ol", "", { "aria-labelledby": `column-${i}` });
      const title = h("h3", "", { id: `column-${i}`, title: column.title }, column.title);
      if (i) children.push(h("div", "links", { "aria-hidden": "true" }));
      children.push(h("div", `column ${i ? "model" : "keywords"}`, {}, title, this.notes[i], list));
      return list;
    });
    this.element.replaceChildren(...children);
    // With these widths, three columns fit beside the form on a screen of 1280 pixels.
    const [wide, links] = this.columns.length > 2 ? ["minmax(230px, 1fr)", " 44px "] : ["minmax(0, 1fr)", " 84px "];
    this.element.style.gridTemplateColumns = this.columns.map(() => wide).join(links);
    this.fillTabs();
    this.measure();
    this.fill(0, FIRST_CARDS);
    this.update(state);
    this.fillRest(FIRST_CARDS, this.version);
    if (fresh) this.animate();
  }

  fillTabs() {
    const tabs = $("tabs");
    const legend = tabs.querySelector("legend");
    this.shown = Math.min(this.shown, this.columns.length - 1);
    tabs.replaceChildren(
      legend,
      ...this.columns.map((column, i) => {
        const input = h("input", "", { type: "radio", name: "tab", value: i, checked: i === this.shown });
        input.addEventListener("change", () => this.showTab(i));
        return h("label", "", {}, input, h("span", "", {}, column.title));
      }),
    );
    this.showTab(this.shown);
  }

  showTab(shown) {
    this.shown = shown;
    this.element.querySelectorAll(".column").forEach((column, i) => column.classList.toggle("shown", i === shown));
  }

  /** Set the height of the rows: as many lines as the longest text needs, up to three. */
  measure() {
    const column = this.element.querySelector(".column.shown");
    const width = Math.max(80, column.clientWidth - 62);
    // The approximate width of a text in pixels; CJK characters are twice as wide as Latin ones.
    const length = (text) => 7.6 * (text.length + (text.slice(0, 300).match(/[\u1100-\uffdc]/g)?.length ?? 0));
    const longest = Math.max(...this.results.documents.map((document) => length(document.slice(0, CARD_CHARACTERS))));
    const lines = Math.min(3, Math.max(1, Math.ceil(longest / width)));
    this.row = 21 * lines + 21 + 22;
    this.element.style.setProperty("--lines", lines);
    this.element.style.setProperty("--row", `${this.row}px`);
    this.drawLinks();
  }

  fill(from, to) {
    this.columns.forEach((column, i) => {
      const cards = column.order.slice(from, to).map((document, k) => {
        const card = this.card(i, document, from + k);
        this.cards[i][document.index] = card;
        return h("li", from + k === 0 ? "first" : "", {}, card);
      });
      this.lists[i].append(...cards);
    });
  }

  /** Render the remaining cards in steps, while the browser is idle. */
  fillRest(from, version) {
    if (from >= this.results.documents.length) return;
    setTimeout(() => {
      if (version !== this.version) return;
      this.fill(from, from + MORE_CARDS);
      this.update(this.state, from, from + MORE_CARDS);
      this.fillRest(from + MORE_CARDS, version);
    });
  }

  card(i, document, place) {
    const text = this.results.documents[document.index];
    // A model's card of a document that was read in windows shows the best one.
    const [start, stop] = (this.columns[i].model && document.window) || [0, CARD_CHARACTERS];
    const end = Math.min(stop, start + CARD_CHARACTERS);
    const shown = start ? slicer(text)(start, end) : text.slice(0, end);
    const spans = document.keyword_spans.filter(([from, to]) => from >= start && to <= end).map((span) => span.map((at) => at - start));
    const body = h(
      "span",
      "",
      {},
      h("span", "text", { dir: "auto" }, start > 0 ? "… " : null, ...marked(shown, spans)),
      h("span", "numbers", {}, h("span", "bar", {}, h("span")), h("span", "number"), ...this.tags(i, document)),
    );
    const placeClass = place >= 99 ? "place far" : "place"; // three digits need a smaller font
    return h(
      "button",
      "card",
      { type: "button", tabindex: place ? -1 : 0, "data-index": document.index },
      h("span", placeClass, {}, String(place + 1)),
      body,
    );
  }

  /** How many places a document has risen from the column on the left, where its line starts. */
  rise(i, index) {
    return this.places[i - 1].get(index) - this.places[i].get(index);
  }

  tags(i, document) {
    if (!this.columns[i].model) return [h("span", "tag", { hidden: true }, t("dropped"))];
    const up = this.rise(i, document.index);
    const kind = up > 0 ? "up" : up < 0 ? "down" : "";
    const moved = { n: number(Math.abs(up)), from: number(document.rank + up), where: this.columns[i - 1].title };
    const label = t(up > 0 ? "moved_up" : up < 0 ? "moved_down" : "stays", moved);
    const move = h(
      "span",
      `move ${kind}`,
      { title: label },
      h("span", "", { "aria-hidden": "true" }, up > 0 ? `▲ ${up}` : up < 0 ? `▼ ${-up}` : "="),
      h("span", "unseen", {}, label),
    );
    const scoredBy = h("span", "tag", { title: t("by_first_title") }, document.model);
    return [move, document.byFirst ? scoredBy : null, this.reading(document)];
  }

  /** What a card says of a document that does not fit the model's window. */
  reading({ window, truncated }) {
    if (window) {
      const [start, end] = window.map(number);
      const title = `${t("window_title")}${truncated ? ` ${t("window_part")}` : ""}`;
      return h("span", "tag", { title }, t("window", { start, end }));
    }
    return truncated ? h("span", "tag cut", { title: t("cut_title") }, t("cut")) : null;
  }

  /** Update numbers, bars and hidden cards after a change of the switch or the sliders. */
  update(state, from = 0, to = Infinity) {
    this.state = state;
    this.columns.forEach((column, i) => {
      const field = column.model ? state.scale : "keyword_score";
      const values = column.order.map((document) => document[field]);
      const maxValue = Math.max(1e-9, ...values.map(Math.abs));
      column.order.slice(from, to).forEach((document) => {
        const card = this.cards[i][document.index];
        if (!card) return;
        const value = document[field];
        const bar = card.querySelector(".bar");
        const filled = bar.firstElementChild.style;
        bar.classList.toggle("both", field === "logit");
        if (field === "logit") {
          const half = (50 * Math.abs(value)) / maxValue;
          filled.left = value < 0 ? `${50 - half}%` : "50%";
          filled.width = `${half}%`;
        } else {
          filled.left = "0";
          filled.width = `${100 * (column.model ? value : value / maxValue)}%`;
        }
        card.querySelector(".number").textContent = column.model ? figure(value, state.scale) : value.toFixed(2);
        if (column.model) {
          card.parentElement.hidden = !isKept(document, state);
        } else {
          const dropped = !isKeptByAny(this.results.answers, document.index, state);
          card.classList.toggle("dropped", dropped);
          card.querySelector(".tag").hidden = !dropped;
        }
      });
    });
    for (const list of this.lists) {
      const first = list.querySelector("li:not([hidden]) > .card");
      if (first && this.tabStop(list).parentElement.hidden) this.setTabStop(first);
    }
    if (from > 0) return;
    this.columns.forEach(({ model, order, note }, i) => {
      const kept = model ? countKept(order, state) : order.length;
      this.notes[i].textContent = kept < order.length ? [t("kept", { n: number(kept) }), note].filter(Boolean).join(" · ") : note;
    });
    this.drawLinks();
  }

  /** The card of a column that the Tab key moves to. */
  tabStop(list) {
    return list.querySelector(".card[tabindex='0']");
  }

  setTabStop(card) {
    this.tabStop(card.closest("ol")).tabIndex = -1;
    card.tabIndex = 0;
  }

  drawLinks() {
    const count = this.results.documents.length;
    const height = count * (this.row + GAP);
    const y = (place) => place * (this.row + GAP) + this.row / 2;
    const svg = "http://www.w3.org/2000/svg";
    this.element.querySelectorAll(".links").forEach((links, i) => {
      const [left, right] = [this.places[i], this.places[i + 1]];
      const drawing = document.createElementNS(svg, "svg");
      drawing.setAttribute("viewBox", `0 0 100 ${height}`);
      drawing.setAttribute("height", height);
      drawing.setAttribute("preserveAspectRatio", "none");
      for (const hit of this.columns[i + 1].order) {
        const before = this.columns[i].order[left.get(hit.index)];
        if (!isKept(hit, this.state) || (i && !isKept(before, this.state))) continue;
        const [from, to] = [left.get(hit.index), right.get(hit.index)];
        const path = document.createElementNS(svg, "path");
        path.setAttribute("d", `M3 ${y(from)}C50 ${y(from)} 50 ${y(to)} 97 ${y(to)}`);
        path.setAttribute("class", to < from ? "rise" : to > from ? "fall" : "level");
        path.dataset.index = hit.index;
        drawing.append(path);
      }
      links.classList.toggle("many", count > 60);
      links.replaceChildren(drawing);
    });
  }

  /** Move the cards of each model's column from their places in the column on the left. */
  animate() {
    if (this.results.documents.length > MAX_ANIMATED || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    this.columns.forEach((column, i) => {
      if (!i) return;
      for (const document of column.order) {
        const distance = this.rise(i, document.index) * (this.row + GAP);
        if (!distance) continue;
        this.cards[i][document.index].parentElement.animate(
          [{ transform: `translateY(${distance}px)` }, { transform: "none" }],
          { duration: 650, easing: "cubic-bezier(.3, 0, .1, 1)" },
        );
      }
    });
    for (const links of this.element.querySelectorAll(".links")) {
      links.animate([{ opacity: 0 }, { opacity: 0, offset: 0.6 }, { opacity: 1 }], { duration: 900 });
    }
  }

  choose(event) {
    const card = event.target.closest(".card");
    if (!card) return;
    const column = this.columns[this.lists.indexOf(card.closest("ol"))];
    this.onChoose(column.model ?? this.results.answers[0].model, Number(card.dataset.index));
  }

  /** Move the focus with the arrow keys: within a column, or to the same document in the next column. */
  move(event) {
    const card = event.target.closest?.(".card");
    if (!card || event.altKey || event.ctrlKey || event.metaKey) return;
    const list = card.closest("ol");
    const cards = [...list.querySelectorAll("li:not([hidden]) > .card")];
    const here = cards.indexOf(card);
    const page = 10;
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: cards.length - 1 }[event.key];
    const aside = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = aside ? this.cards[this.lists.indexOf(list) + aside]?.[card.dataset.index] : cards[Math.max(0, Math.min(cards.length - 1, to))];
    if (!next || next.parentElement.hidden) return;
    event.preventDefault();
    this.setTabStop(next);
    next.focus();
  }

  light(target) {
    for (const lit of this.element.querySelectorAll(".lit")) lit.classList.remove("lit");
    const card = target?.closest?.(".card");
    if (!card) return;
    const index = card.dataset.index;
    for (const cards of this.cards) cards[index]?.classList.add("lit");
    for (const path of this.element.querySelectorAll(`path[data-index="${index}"]`)) path.classList.add("lit");
  }
}
