// Explain the rank of a document: the score of each sentence alone, and the score without it.

import { RequestError, explain } from "./api.js";
import { $, h, slicer } from "./dom.js";
import { number, t } from "./i18n.js";
import { figure } from "./results.js";

const MAX_COLOUR = 40; // per cent; the text must stay readable
const FULL_COLOUR_FALL = 0.3; // minimum fall of the logit for the full colour

export class Why {
  constructor({ onClose }) {
    this.dialog = $("why");
    this.body = $("why-body");
    this.request = null;
    $("why-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => {
      this.request?.abort();
      onClose();
    });
  }

  /** Request an explanation and show it. */
  async open(results, model, index, state) {
    this.request?.abort();
    const request = (this.request = new AbortController());
    const document = results.answers.find((answer) => answer.model === model)?.documents[index];
    if (!document) return;
    $("why-title").textContent = t("why", { place: number(document.rank) });
    this.body.replaceChildren(
      this.facts(results, model, document, state),
      h("p", "", { role: "status" }, h("span", "spinner", { "aria-hidden": "true" }), " ", t("why_working")),
    );
    if (!this.dialog.open) this.dialog.showModal();
    $("why-title").focus();
    const text = results.documents[index];
    try {
      const asked = { model, query: results.query, document: text, ...(document.window ? { window: document.window } : {}) };
      const found = await explain(asked, request.signal);
      this.show(results, model, document, state, text, found);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (error.kind === "stopped") return;
      const key = { busy: "busy", loading: "loading", lost: "lost", late: "late", key: "needs_key", refused: "refused" }[error.kind] ?? "failed";
      const retry = h("button", "main", { type: "button" }, t("again"));
      retry.addEventListener("click", () => this.open(results, model, index, state));
      this.body.replaceChildren(
        this.facts(results, model, document, state),
        h("p", "note", { role: "alert" }, `${t(key)}. ${error.kind === "lost" ? "" : error.message}`),
        h("p", "actions", {}, retry),
      );
    }
  }

  facts(results, model, document, state) {
    const fact = (name, value) => h("span", "", {}, `${name} `, h("b", "", {}, value));
    return h(
      "p",
      "facts",
      {},
      h("span", "", {}, t("of", { n: number(document.index + 1) })),
      results.answers.length > 1 ? fact(t("why_model"), model) : null,
      fact(t(state.scale === "logit" ? "why_logit" : "why_score"), figure(document[state.scale], state.scale)),
      fact(t("why_keywords"), t("why_place", { n: number(document.keyword_rank) })),
    );
  }

  show(results, model, document, state, text, found) {
    const part = slicer(text);
    const length = Array.from(text).length;
    const pieces = [];
    const rows = [];
    let end = 0;
    const highlight = (i, on) => {
      pieces[i].classList.toggle("lit", on);
      rows[i].classList.toggle("lit", on);
    };
    const strip = h("div", "strip", { tabindex: 0, role: "group", "aria-label": t("sentence"), dir: "auto" });
    if (found.window && found.sentences.length) {
      end = found.sentences[0].start;
      strip.append(h("span", "unread", {}, part(0, end)));
    }
    found.sentences.forEach((sentence, i) => {
      strip.append(part(end, sentence.start));
      end = sentence.end;
      const piece = h("span", sentence.read ? "" : "unread");
      if (sentence.read && sentence.read < sentence.end - sentence.start) {
        // The window ends within this sentence.
        const middle = sentence.start + sentence.read;
        piece.append(part(sentence.start, middle), h("span", "unread", {}, part(middle, sentence.end)));
      } else {
        piece.append(part(sentence.start, sentence.end));
      }
      piece.addEventListener("pointerenter", () => highlight(i, true));
      piece.addEventListener("pointerleave", () => highlight(i, false));
      pieces.push(piece);
      strip.append(piece);
      rows.push(this.row(sentence, state, (on) => highlight(i, on)));
    });
    strip.append(h("span", found.sentences_left_out ? "unread" : "", {}, part(end)));
    const best = found.sentences.reduce((top, sentence) => (top && top.logit >= sentence.logit ? top : sentence), null);
    const children = [this.facts(results, model, document, state)];
    if (found.window) {
      const [start, end] = found.window.map(number);
      children.push(h("p", "note", {}, t("why_window", { start, end, all: number(length) })));
    } else if (found.read < length) {
      children.push(
        h("p", "note", {}, t("why_cut", { read: number(found.read), all: number(length) }), " ", best && !best.read ? t("why_beyond") : ""),
      );
    }
    if (!found.sentences.length) children.push(h("p", "note", {}, t("why_none")));
    else {
      children.push(
        strip,
        h("div", "between scale small", {}, this.colours(found, pieces), h("p", "scale", {}, h("span", "scale-text"), h("i", "", { "aria-hidden": "true" }), h("span", "scale-end"))),
        h("div", "rows", { tabindex: 0, role: "group", "aria-label": t("why_table") }, this.table(rows)),
      );
    }
    if (found.sentences_left_out) children.push(h("p", "small", {}, t("why_left", { n: number(found.sentences_left_out) })));
    this.body.replaceChildren(...children);
    if (!found.sentences.length) return;
    this.colour("fall", found, pieces);
    const decisive = found.sentences.reduce((top, sentence, i) => ((sentence.logit_fall ?? 0) > (found.sentences[top].logit_fall ?? 0) ? i : top), 0);
    strip.scrollTop = pieces[decisive].offsetTop - strip.offsetTop - strip.clientHeight / 2;
    if (!(found.sentences[decisive].logit_fall > 0)) return;
    rows[decisive].classList.add("decisive");
    const table = this.body.querySelector(".rows");
    table.scrollTop = rows[decisive].offsetTop - table.clientHeight / 2;
  }

  /** The switch between the two ways to colour the text. */
  colours(found, pieces) {
    const choice = (by, label) => {
      const input = h("input", "", { type: "radio", name: "colour", value: by, checked: by === "fall" });
      input.addEventListener("change", () => this.colour(by, found, pieces));
      return h("label", "", {}, input, h("span", "", {}, t(label)));
    };
    return h("fieldset", "switch", {}, h("legend", "unseen", {}, t("why_colour")), choice("fall", "without"), choice("alone", "alone"));
  }

  /** Colour each sentence by how much the score falls without it, or by its own score. */
  colour(by, found, pieces) {
    const maxFall = Math.max(FULL_COLOUR_FALL, ...found.sentences.map((sentence) => Math.abs(sentence.logit_fall ?? 0)));
    found.sentences.forEach((sentence, i) => {
      const share = by === "alone" ? sentence.score : (sentence.logit_fall ?? 0) / maxFall;
      pieces[i].classList.toggle("cold", share < 0);
      pieces[i].classList.toggle("warm", share > 0);
      pieces[i].style.setProperty("--heat", Math.round(MAX_COLOUR * Math.abs(share)));
    });
    const scale = this.body.querySelector("p.scale");
    scale.classList.toggle("one", by === "alone");
    scale.querySelector(".scale-text").textContent = by === "alone" ? t("why_low") : `${t("why_scale")} ${t("why_rises")}`;
    scale.querySelector(".scale-end").textContent = by === "alone" ? t("why_high") : t("why_falls");
  }

  row(sentence, state, highlight) {
    const alone = sentence[state.scale];
    const fall = sentence[`${state.scale}_fall`];
    // Without its only sentence the text would be empty: there is nothing to compare with.
    const change = !sentence.read ? t("unread") : fall === null ? "–" : `${fall > 0 ? "−" : "+"}${figure(Math.abs(fall), state.scale)}`;
    const row = h("tr", "", {}, h("td", "", { dir: "auto" }, sentence.text), h("td", "", {}, figure(alone, state.scale)), h("td", fall > 0 ? "up" : "", {}, change));
    row.addEventListener("pointerenter", () => highlight(true));
    row.addEventListener("pointerleave", () => highlight(false));
    return row;
  }

  table(rows) {
    const head = (key) => h("th", "", { scope: "col", title: key === "sentence" ? null : t(`${key}_title`) }, t(key));
    return h("table", "", {}, h("thead", "", {}, h("tr", "", {}, head("sentence"), head("alone"), head("without"))), h("tbody", "", {}, ...rows));
  }

  close() {
    this.dialog.close();
  }
}
