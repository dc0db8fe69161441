// The page: it reads the form, sends requests and shows the results.

import { RequestError, alive, compare, info, key, long } from "./api.js";
import { $, h, pause } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { asCsv, asCurl, asJson, asPython, save } from "./exports.js";
import { FileError, joinTexts, readFile, splitText } from "./files.js";
import { documents as counted, locale, number, setPageLanguage, t } from "./i18n.js";
import { draw } from "./picture.js";
import { Results, countKept } from "./results.js";
import { decodeState, encodeState, isLink } from "./state.js";
import { Why } from "./why.js";

const THEMES = ["auto", "light", "dark"];
const TYPING_PAUSE = 500; // milliseconds without a change before it is announced
const BASE = new URL(".", location.href.split("#")[0]).href;

let infos = []; // the served models
let results = null; // { query, documents, windows, answers, ms } of the ranking that is shown
let running = null; // the AbortController of the running request
let notice = null; // the notice that is shown, to translate it when the language changes
let why = null; // [model, index] of the explanation that is open

const state = { query: "", documents: "", split: "line", windows: null, models: [], topN: null, threshold: 0, scale: "score" };
const view = new Results({ onChoose: (model, index) => openWhy(model, index) });
const dialog = new Why({
  onClose: () => {
    why = null;
    saveState();
  },
});

// --- the form and the requests ---

/** Read the form into the state; returns the documents. */
function readForm() {
  state.query = $("query").value.trim();
  state.documents = $("documents").value;
  state.split = document.querySelector("[name=split]:checked").value;
  if (infos.length) state.models = [...document.querySelectorAll("#models input:checked")].map((input) => input.value);
  return splitText(state.documents, state.split);
}

/** Write the state into the form. */
function writeForm() {
  $("query").value = state.query;
  $("documents").value = state.documents;
  document.querySelector(`[name=split][value=${state.split}]`).checked = true;
  document.querySelector(`[name=scale][value=${state.scale}]`).checked = true;
  for (const input of document.querySelectorAll("#models input")) input.checked = state.models.includes(input.value);
  writeWindows();
  updateCount();
}

/** Until it is chosen here, long documents are read as the server does it for its first model. */
const writeWindows = () => ($("windows").checked = state.windows ?? infos[0]?.long === "windows");

function updateCount() {
  const documents = readForm();
  $("count").textContent = counted(documents.length);
  markOutdated(documents);
}

/** Mark the results as outdated if the form has other texts now. */
function markOutdated(documents = readForm()) {
  const isSame = () => state.query === results.query && state.windows === results.windows && documents.length === results.documents.length && documents.every((text, i) => text === results.documents[i]);
  const outdated = results !== null && running === null && !isSame();
  $("found").classList.toggle("old", outdated);
  $("changed").hidden = !outdated;
}

const changedText = () => ($("changed").hidden ? "" : t("changed"));

/** Rank the documents of the form; ``scroll`` to the results if they are below the form. */
async function run(scroll = true) {
  const documents = readForm();
  key.set($("key").value.trim());
  if (!state.query) return showNotice("ask", { focus: "query" });
  if (!documents.length) return showNotice("no_documents", { focus: "documents" });
  if (infos.length && !state.models.length) return showNotice("no_model");
  running?.abort();
  const controller = (running = new AbortController());
  why = null;
  hideNotice();
  markOutdated(documents);
  const started = performance.now();
  const finish = showWorking(controller, () => t("working", { documents: counted(documents.length), s: Math.floor((performance.now() - started) / 1000) }));
  const { query, windows } = state;
  const answers = [];
  let models = null;
  let ms = 0;
  const found = await withRetries(async () => {
    if (!infos.length) await connect(controller.signal);
    models ??= state.models;
    // One model after another, without repeating those that have answered: concurrent requests would compete for
    // the last places of a server that is nearly full.
    for (const model of models.slice(answers.length)) {
      const sent = performance.now();
      const answer = await compare({ model, query, documents, ...long(windows) }, controller.signal);
      // A first model's scores cannot be compared with those of the model.
      for (const each of answer.documents) each.byFirst = each.model !== answer.model;
      answers.push(answer);
      ms += performance.now() - sent;
    }
    return { query, documents, windows, answers, ms };
  }, controller);
  finish();
  if (!found) return;
  results = found;
  state.topN = null;
  showResults(true);
  if (scroll && matchMedia("(max-width: 1080px)").matches) $("results").scrollIntoView({ behavior: "smooth", block: "start" });
  const first = found.answers[0].documents.find((document) => document.rank === 1);
  announce(t("ranked", { documents: counted(documents.length), ms: number(Math.round(found.ms)), first: documents[first.index].slice(0, 200) }));
  await saveState();
}

/** Run an action, with retries while it may still succeed; returns null if it was stopped or refused. */
async function withRetries(action, controller) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (running !== controller) return null; // a newer request replaced this one
      if (error.kind === "stopped") return showNotice("stopped", { again: () => run() });
      if (error.kind === "key") return askForKey();
      const isTemporary = ["busy", "loading", "lost"].includes(error.kind);
      if (!isTemporary) {
        controller.abort();
        return showNotice(error.kind, { message: error.kind === "late" ? null : error.message, again: () => run() });
      }
      const retry = await waitForRetry(error, controller);
      if (running !== controller) return null;
      if (!retry) return showNotice("stopped", { again: () => run() });
      hideNotice();
    }
  }
}

/** Show the error, and wait until a retry may succeed; returns false if the user cancels. */
async function waitForRetry(error, controller) {
  const now = new AbortController();
  const countdown = h("span", "", { "aria-hidden": "true" });
  showNotice(error.kind, {
    message: error.kind === "lost" ? null : error.message,
    extra: countdown,
    buttons: [
      ["now", () => now.abort()],
      ["give_up", () => controller.abort()],
    ],
  });
  const signal = AbortSignal.any([now.signal, controller.signal]);
  for (let seconds = error.retryAfter; !signal.aborted; seconds -= 1) {
    if (error.kind !== "lost") {
      if (seconds <= 0) break;
      countdown.textContent = t("seconds", { n: number(seconds) });
      await pause(1000, signal);
    } else {
      await pause(1000, signal);
      if (await alive(signal)) break;
    }
  }
  return !controller.signal.aborted;
}

function askForKey() {
  const wrong = Boolean(key.get());
  $("key-field").hidden = false;
  showNotice(wrong ? "wrong_key" : "needs_key", { focus: "key" });
  return null;
}

/** Ask the server which models it serves, and show the choice of models. */
async function connect(signal) {
  infos = (await info(signal)).models;
  const known = state.models.filter((name) => infos.some((model) => model.name === name));
  const unknown = state.models.filter((name) => !known.includes(name));
  if (unknown.length) showNotice("unserved", { message: unknown.join(", ") });
  // `crossrank play` links to ?models=all where it was given several.
  const all = new URLSearchParams(location.search).get("models") === "all";
  state.models = known.length ? known : infos.slice(0, all ? infos.length : 1).map((model) => model.name);
  writeWindows();
  $("models").hidden = infos.length < 2;
  $("models").replaceChildren(
    $("models").querySelector("legend"),
    ...infos.map(({ name }) =>
      h("label", "", {}, h("input", "", { type: "checkbox", value: name, checked: state.models.includes(name) }), name),
    ),
  );
}

// --- the results ---

/** Show the results; ``fresh`` ones are animated. */
function showResults(fresh) {
  $("empty").hidden = true;
  $("found").hidden = false;
  markOutdated();
  const total = results.documents.length;
  $("top-n").max = total;
  $("top-n").value = state.topN ?? total;
  $("threshold").value = state.threshold;
  applyOptions(() => view.show(results, infos, state, fresh));
}

/** Read the sliders and the switch, and update the results, or call ``show`` to render them. */
function applyOptions(show = () => view.update(state)) {
  if (!results) return;
  const total = results.documents.length;
  const topN = Number($("top-n").value);
  state.topN = topN < total ? topN : null;
  state.threshold = Number($("threshold").value);
  state.scale = document.querySelector("[name=scale]:checked").value;
  $("top-n-value").textContent = number(topN);
  const logit = Math.log(state.threshold / (1 - state.threshold));
  $("threshold-value").textContent = state.threshold.toFixed(2) + (state.scale === "logit" && Number.isFinite(logit) ? ` (${logit.toFixed(1)})` : "");
  show();
  const truncated = results.documents.filter((_, i) => results.answers.some((answer) => answer.documents[i].truncated)).length;
  const tokens = results.answers.reduce((sum, answer) => sum + answer.usage.total_tokens, 0);
  $("summary").textContent =
    t("summary", { documents: counted(total), tokens: number(tokens), ms: number(Math.round(results.ms)) }) +
    (truncated ? t("summary_cut", { n: number(truncated) }) : "") +
    (results.answers.some((answer) => answer.query_truncated) ? t("summary_query_cut") : "");
}

/** How many documents each model keeps, as a text. */
const keptText = () =>
  results.answers
    .map((answer) => (results.answers.length > 1 ? `${answer.model}: ` : "") + t("kept", { n: number(countKept(answer.documents, state)) }))
    .join("; ");

function openWhy(model, index) {
  why = [model, index];
  dialog.open(results, model, index, state);
  saveState();
}

/** Show that a request is running if it takes noticeably long; returns a function that ends this. */
function showWorking(controller, text) {
  const show = () => {
    $("working").hidden = !$("notice").hidden;
    $("working-text").textContent = text();
  };
  const delay = setTimeout(show, 150);
  const clock = setInterval(show, 1000);
  $("stop").hidden = false;
  $("results").setAttribute("aria-busy", "true");
  return () => {
    clearTimeout(delay);
    clearInterval(clock);
    if (running !== controller) return; // a newer request replaced this one
    running = null;
    markOutdated();
    $("working").hidden = true;
    if ($("stop") === document.activeElement) $("run").focus();
    $("stop").hidden = true;
    $("results").removeAttribute("aria-busy");
  };
}

/** Show a notice that says what happened, with buttons for what can be done. */
function showNotice(kind, options = {}) {
  notice = { kind, options };
  const { message, extra, again, focus } = options;
  const buttons = options.buttons ?? (again ? [["again", again]] : []);
  const text = ["refused", "failed"].includes(kind) ? null : t(`${kind}_text`);
  moveFocusFromNotice();
  $("notice").hidden = false;
  $("working").hidden = true;
  $("notice").replaceChildren(
    h("strong", "", {}, options.title?.() ?? t(kind)),
    h("p", "", {}, [text, typeof message === "function" ? message() : message].filter(Boolean).join(" "), extra ? " " : "", extra ?? ""),
  );
  if (buttons.length) {
    const elements = buttons.map(([label, action]) => {
      const button = h("button", "", { type: "button", "data-way": label }, t(label));
      button.addEventListener("click", action);
      return button;
    });
    $("notice").append(h("p", "actions", {}, ...elements));
  }
  if (focus) $(focus).focus();
  return null;
}

/** Move the focus before a focused button of the notice is removed, or the focus would be lost. */
function moveFocusFromNotice() {
  if ($("notice").contains(document.activeElement)) $("results").focus({ preventScroll: true });
}

function hideNotice() {
  moveFocusFromNotice();
  notice = null;
  $("notice").hidden = true;
  $("notice").replaceChildren();
}

let announceTimer = 0;

/** Announce a text to screen readers, after a delay if it changes with every key or step of a slider. */
function announce(text, delay = 0) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => ($("status").textContent = text), delay);
}

// --- links, files, exports ---

const fullState = () => ({ ...state, why });

let stateUrl = location.href; // the URL that the state belongs to
let step = 0; // how often the page has moved to another URL

/** Set the URL of the state: replace the current one ("replaceState") or add a step to the history ("pushState"). */
function setUrl(method, fragment) {
  history[method](null, "", fragment ?? location.pathname + location.search);
  stateUrl = location.href;
}

/** Save the state in the URL, unless the page moves to another URL in the meantime; returns the fragment. */
async function saveState() {
  const before = step;
  const fragment = await encodeState(fullState());
  if (before !== step || location.href !== stateUrl) return fragment;
  setUrl("replaceState", fragment);
  return fragment;
}

let saveTimer = 0;
function saveStateSoon() {
  clearTimeout(saveTimer);
  saveTimer = setTimeout(saveState, 250);
}

/** Replace the texts of the page; the back button of the browser restores the previous ones. */
async function replaceTexts(changes) {
  clearTimeout(saveTimer);
  readForm();
  // The new step needs its own URL from the start: browsers fire no event for a step between equal URLs.
  const fragment = await encodeState({ ...fullState(), ...changes });
  await saveState();
  setUrl("pushState", fragment);
  step += 1;
  Object.assign(state, changes);
  writeForm();
}

/** Restore the state from the URL; returns false if the URL has none. */
async function restore() {
  const url = location.href;
  const link = isLink(location.hash);
  const found = link ? await decodeState(location.hash) : null;
  if (location.href !== url) return true; // the user has moved on
  stateUrl = url;
  step += 1;
  if (!link) return false;
  if (!found) {
    $("empty").hidden = results !== null;
    showNotice("bad_link");
    return true;
  }
  const { why: opened, topN, ...rest } = found;
  infos = []; // ask for the models again, since the state may name others
  Object.assign(state, rest);
  writeForm();
  await run(false);
  if (!results) return true;
  state.topN = topN;
  $("top-n").value = topN ?? results.documents.length;
  applyOptions();
  if (opened && results.answers.some((answer) => answer.model === opened[0] && answer.documents[opened[1]])) openWhy(...opened);
  return true;
}

/** Replace the documents of the form by those of files. */
async function openFiles(files) {
  let documents = [];
  let query = "";
  let notes = "";
  for (const file of files) {
    try {
      const found = await readFile(file);
      documents = documents.concat(found.documents);
      query ||= found.query;
      if (found.encoding !== "UTF-8") notes += t("read_encoding", { file: file.name, encoding: found.encoding });
      if (found.guessed) notes += t("read_column", { file: file.name, n: number(found.guessed) });
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      return showNotice("refused", { title: () => t("bad_file", { file: file.name }), message: () => t(error.message, error.values) });
    }
  }
  const { text, split, changed } = joinTexts(documents);
  await replaceTexts({ documents: text, split, query: query || $("query").value });
  hideNotice();
  const message = t("read", { documents: counted(documents.length), file: files.map((file) => file.name).join(", ") });
  $("count").textContent = message + notes + (changed ? t("read_block") : "");
  announce($("count").textContent);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce(t("copied"));
    return true;
  } catch {
    announce(t("copy_failed"));
    return false;
  }
}

function showCode(title, text) {
  $("code-title").textContent = t(title);
  $("code-text").textContent = text;
  $("code-copy").textContent = t("copy");
  $("code").showModal();
  $("code-title").focus();
}

const EXPORTS = {
  async link() {
    const fragment = await saveState();
    if (fragment) showCode("code_link", BASE + fragment);
    else showNotice("refused", { title: () => t("export_link"), message: () => t("too_long_link") });
  },
  curl: () => showCode("code_curl", asCurl(results, state, BASE, Boolean(key.get()))),
  python: () => showCode("code_python", asPython(results, state, infos)),
  json: () => save("crossrank.json", asJson(results, state), "application/json"),
  csv: () => save("crossrank.csv", asCsv(results, state), "text/csv"),
  async png() {
    save("crossrank.png", await draw(results, infos, state));
  },
};

// --- language and theme ---

function setLanguage(code) {
  setPageLanguage(code);
  const other = locale() === "zh" ? "en" : "zh";
  $("language").lang = other;
  $("language").textContent = other === "zh" ? "中文" : "English";
  $("shortcut").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
  $("examples").replaceChildren(
    ...EXAMPLES.map((example) => {
      const button = h("button", "", { type: "button", "data-example": example.id }, example.label[locale()]);
      button.addEventListener("click", async () => {
        await replaceTexts(stateOf(example));
        run();
      });
      return button;
    }),
  );
  setTheme(document.documentElement.dataset.theme ?? "auto");
  updateCount();
  if (notice) showNotice(notice.kind, notice.options);
  if (results) showResults(false);
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const glyph = { auto: "◐", light: "○", dark: "●" }[theme];
  $("theme").replaceChildren(h("span", "unseen", {}, `${t("theme")} `), h("span", "", { "aria-hidden": "true" }, `${glyph} `), t(`theme_${theme}`));
}

function stateOf(example) {
  const { text, split } = joinTexts(example.documents);
  return { query: example.query, documents: text, split, threshold: 0, topN: null };
}

// --- event handlers and start ---

const store = (name, value) => localStorage.setItem(`crossrank-${name}`, value);
const stored = (name) => localStorage.getItem(`crossrank-${name}`);

$("form").addEventListener("submit", (event) => (event.preventDefault(), run()));
$("query").addEventListener("input", () => (markOutdated(), announce(changedText(), TYPING_PAUSE)));
$("documents").addEventListener("input", () => (updateCount(), announce(`${$("count").textContent}. ${changedText()}`, TYPING_PAUSE)));
for (const radio of document.querySelectorAll("[name=split]")) radio.addEventListener("change", updateCount);
$("windows").addEventListener("change", () => {
  state.windows = $("windows").checked;
  markOutdated();
  saveStateSoon();
});
for (const radio of document.querySelectorAll("[name=scale]")) radio.addEventListener("change", () => (applyOptions(), saveStateSoon()));
for (const id of ["top-n", "threshold"]) $(id).addEventListener("input", () => (applyOptions(), saveStateSoon(), announce(keptText(), TYPING_PAUSE)));
$("stop").addEventListener("click", () => running?.abort());
$("language").addEventListener("click", () => {
  setLanguage(locale() === "zh" ? "en" : "zh");
  store("language", locale());
});
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  setTheme(next);
  store("theme", next);
});
$("skip").addEventListener("click", (event) => (event.preventDefault(), $("results").focus()));
$("file").addEventListener("change", async (event) => {
  if (event.target.files.length) await openFiles([...event.target.files]);
  event.target.value = ""; // otherwise the same file could not be chosen again
});
$("code-close").addEventListener("click", () => $("code").close());
$("code-copy").addEventListener("click", async () => {
  $("code-copy").textContent = t((await copy($("code-text").textContent)) ? "copied" : "copy_failed");
});
$("export").addEventListener("click", (event) => {
  const format = event.target.dataset?.export;
  if (!format) return;
  $("export").open = false;
  $("export").querySelector("summary").focus(); // when a dialog closes, it returns the focus here
  EXPORTS[format]();
});
document.addEventListener("click", (event) => {
  if (!$("export").contains(event.target)) $("export").open = false;
});
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("dialog[open]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !open) {
    event.preventDefault(); // otherwise a field would submit the form again
    run();
  }
  if (event.key === "Escape") {
    if ($("export").open) {
      $("export").open = false;
      $("export").querySelector("summary").focus();
    } else if (!open) running?.abort();
  }
});
addEventListener("hashchange", restore);

let dragged = 0;
addEventListener("dragenter", (event) => {
  if (event.dataTransfer?.types.includes("Files")) {
    dragged += 1;
    $("drop").hidden = false;
  }
});
addEventListener("dragleave", () => {
  dragged = Math.max(0, dragged - 1);
  $("drop").hidden = dragged === 0;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragged = 0;
  $("drop").hidden = true;
  if (event.dataTransfer.files.length) openFiles([...event.dataTransfer.files]);
});

setTheme(stored("theme") ?? "auto");
setLanguage(stored("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
$("key").value = key.get();
if (!(await restore())) {
  // Without a state in the URL, the page starts with an example.
  Object.assign(state, stateOf(EXAMPLES.find((example) => example.first === locale())));
  writeForm();
  run(false);
}
