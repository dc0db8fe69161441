// The page: what is asked, when, and what happens then.

import { Problem, alive, compare, info, key } from "./api.js";
import { $, h, pause } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { asCsv, asCurl, asJson, asPython, save } from "./exports.js";
import { FileError, joinTexts, readFile, splitText } from "./files.js";
import { documents as counted, locale, number, speak, t } from "./i18n.js";
import { draw } from "./picture.js";
import { Results, keptOf } from "./results.js";
import { isLink, pack, unpack } from "./state.js";
import { Why } from "./why.js";

const THEMES = ["auto", "light", "dark"];
const REST = 500; // milliseconds without a change
const BASE = new URL(".", location.href.split("#")[0]).href;

let infos = []; // the served models
let results = null; // { query, documents, answers, ms }: what is shown
let running = null; // the AbortController of the request at work
let notice = null; // what the notice says, so that it can be said again in another language
let why = null; // [model, index]: the explanation that is open

const state = { query: "", documents: "", split: "line", models: [], topN: null, threshold: 0, scale: "score" };
const view = new Results({ onChoose: (model, index) => openWhy(model, index) });
const dialog = new Why({
  onClose: () => {
    why = null;
    remember();
  },
});

// --- what is asked ---

function read() {
  state.query = $("query").value.trim();
  state.documents = $("documents").value;
  state.split = document.querySelector("[name=split]:checked").value;
  if (infos.length) state.models = [...document.querySelectorAll("#models input:checked")].map((input) => input.value);
  return splitText(state.documents, state.split);
}

function write() {
  $("query").value = state.query;
  $("documents").value = state.documents;
  document.querySelector(`[name=split][value=${state.split}]`).checked = true;
  document.querySelector(`[name=scale][value=${state.scale}]`).checked = true;
  for (const input of document.querySelectorAll("#models input")) input.checked = state.models.includes(input.value);
  count();
}

function count() {
  const documents = read();
  $("count").textContent = counted(documents.length);
  age(documents);
}

/** Say so where the ranking that is shown is of other texts than those that are written. */
function age(documents = read()) {
  const same = () => state.query === results.query && documents.length === results.documents.length && documents.every((text, i) => text === results.documents[i]);
  const old = results !== null && running === null && !same();
  $("found").classList.toggle("old", old);
  $("changed").hidden = !old;
}

const changedWords = () => ($("changed").hidden ? "" : t("changed"));

async function run(asked = true) {
  const documents = read();
  key.set($("key").value.trim());
  if (!state.query) return tell("ask", { focus: "query" });
  if (!documents.length) return tell("no_documents", { focus: "documents" });
  if (infos.length && !state.models.length) return tell("no_model");
  running?.abort();
  const mine = (running = new AbortController());
  why = null;
  hush();
  age(documents);
  const begun = performance.now();
  const clock = working(mine, () => t("working", { documents: counted(documents.length), s: Math.floor((performance.now() - begun) / 1000) }));
  const query = state.query;
  const answers = [];
  let models = null;
  let ms = 0;
  const found = await persist(async () => {
    if (!infos.length) await connect(mine.signal);
    models ??= state.models;
    // One after another, and none twice: models that are asked at once turn each other away from a server that is
    // nearly full.
    for (const model of models.slice(answers.length)) {
      const asked = performance.now();
      answers.push(await compare({ model, query, documents }, mine.signal));
      ms += performance.now() - asked;
    }
    return { query, documents, answers, ms };
  }, mine);
  clock();
  if (!found) return;
  results = found;
  state.topN = null;
  present(true);
  // Where the results are below the texts, they come into sight.
  if (asked && matchMedia("(max-width: 1080px)").matches) $("results").scrollIntoView({ behavior: "smooth", block: "start" });
  const first = found.answers[0].documents.find((each) => each.rank === 1);
  say(t("said", { documents: counted(documents.length), ms: number(Math.round(found.ms)), first: documents[first.index].slice(0, 200) }));
  await remember();
}

/** Do something, and again, as long as it may yet succeed; null where it was stopped or refused. */
async function persist(something, mine) {
  for (;;) {
    try {
      return await something();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (running !== mine) return null; // another request took its place
      if (problem.kind === "stopped") return tell("stopped", { again: () => run() });
      if (problem.kind === "key") return askKey();
      const waits = ["busy", "loading", "lost"].includes(problem.kind);
      if (!waits) {
        mine.abort();
        return tell(problem.kind, { message: problem.kind === "late" ? null : problem.message, again: () => run() });
      }
      const goesOn = await wait(problem, mine);
      if (running !== mine) return null;
      if (!goesOn) return tell("stopped", { again: () => run() });
      hush();
    }
  }
}

/** Say what is in the way, and wait until another try may help; false where the user gives up. */
async function wait(problem, mine) {
  const now = new AbortController();
  const left = h("span", "", { "aria-hidden": "true" });
  tell(problem.kind, {
    message: problem.kind === "lost" ? null : problem.message,
    extra: left,
    buttons: [
      ["now", () => now.abort()],
      ["give_up", () => mine.abort()],
    ],
  });
  const signal = AbortSignal.any([now.signal, mine.signal]);
  for (let seconds = problem.after; !signal.aborted; seconds -= 1) {
    if (problem.kind !== "lost") {
      if (seconds <= 0) break;
      left.textContent = t("seconds", { n: number(seconds) });
      await pause(1000, signal);
    } else {
      await pause(1000, signal);
      if (await alive(signal)) break;
    }
  }
  return !mine.signal.aborted;
}

function askKey() {
  const wrong = Boolean(key.get());
  $("key-field").hidden = false;
  tell(wrong ? "wrong_key" : "needs_key", { focus: "key" });
  return null;
}

async function connect(signal) {
  infos = (await info(signal)).models;
  const known = state.models.filter((name) => infos.some((each) => each.name === name));
  const unknown = state.models.filter((name) => !known.includes(name));
  if (unknown.length) tell("unserved", { message: unknown.join(", ") });
  state.models = known.length ? known : [infos[0].name];
  $("models").hidden = infos.length < 2;
  $("models").replaceChildren(
    $("models").querySelector("legend"),
    ...infos.map((each) =>
      h("label", "", {}, h("input", "", { type: "checkbox", value: each.name, checked: state.models.includes(each.name) }), each.name),
    ),
  );
}

// --- what is shown ---

function present(fresh) {
  $("empty").hidden = true;
  $("found").hidden = false;
  age();
  const most = results.documents.length;
  $("top-n").max = most;
  $("top-n").value = state.topN ?? most;
  $("threshold").value = state.threshold;
  refine(() => view.show(results, infos, state, fresh));
}

/** Take the sliders and the switch into account: by ``show``, or by an update of what is there. */
function refine(show = () => view.update(state)) {
  if (!results) return;
  const most = results.documents.length;
  const topN = Number($("top-n").value);
  state.topN = topN < most ? topN : null;
  state.threshold = Number($("threshold").value);
  state.scale = document.querySelector("[name=scale]:checked").value;
  $("top-n-value").textContent = number(topN);
  const logit = Math.log(state.threshold / (1 - state.threshold));
  $("threshold-value").textContent = state.threshold.toFixed(2) + (state.scale === "logit" && Number.isFinite(logit) ? ` (${logit.toFixed(1)})` : "");
  show();
  const cut = results.documents.filter((_, i) => results.answers.some((answer) => answer.documents[i].truncated)).length;
  const tokens = results.answers.reduce((sum, each) => sum + each.usage.total_tokens, 0);
  $("summary").textContent =
    t("summary", { documents: counted(most), tokens: number(tokens), ms: number(Math.round(results.ms)) }) +
    (cut ? t("summary_cut", { n: number(cut) }) : "");
}

/** How many documents are kept, of each model. */
const keptWords = () =>
  results.answers
    .map((answer) => (results.answers.length > 1 ? `${answer.model}: ` : "") + t("kept", { n: number(keptOf(answer.documents, state)) }))
    .join("; ");

function openWhy(model, index) {
  why = [model, index];
  dialog.open(results, model, index, state);
  remember();
}

/** Show that a request is under way, if it takes long enough to be seen; returns what ends it. */
function working(mine, text) {
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
    if (running !== mine) return; // another one took its place
    running = null;
    age();
    $("working").hidden = true;
    if ($("stop") === document.activeElement) $("run").focus();
    $("stop").hidden = true;
    $("results").removeAttribute("aria-busy");
  };
}

/** A notice: what happened, in words, and the way on. */
function tell(kind, options = {}) {
  notice = { kind, options };
  const { message, extra, again, focus } = options;
  const buttons = options.buttons ?? (again ? [["again", again]] : []);
  const text = ["refused", "failed"].includes(kind) ? null : t(`${kind}_text`);
  leaveNotice();
  $("notice").hidden = false;
  $("working").hidden = true;
  $("notice").replaceChildren(
    h("strong", "", {}, options.title?.() ?? t(kind)),
    h("p", "", {}, [text, typeof message === "function" ? message() : message].filter(Boolean).join(" "), extra ? " " : "", extra ?? ""),
  );
  if (buttons.length) {
    const made = buttons.map(([label, action]) => {
      const button = h("button", "", { type: "button", "data-way": label }, t(label));
      button.addEventListener("click", action);
      return button;
    });
    $("notice").append(h("p", "actions", {}, ...made));
  }
  if (focus) $(focus).focus();
  return null;
}

/** A button that goes away takes the focus with it, unless it is moved before. */
function leaveNotice() {
  if ($("notice").contains(document.activeElement)) $("results").focus({ preventScroll: true });
}

function hush() {
  leaveNotice();
  notice = null;
  $("notice").hidden = true;
  $("notice").replaceChildren();
}

let saying = 0;

/** Tell a screen reader; what changes with every key or step of a slider, when it has come to rest. */
function say(text, after = 0) {
  clearTimeout(saying);
  saying = setTimeout(() => ($("said").textContent = text), after);
}

// --- links, files, exports ---

const whole = () => ({ ...state, why });

let shown = location.href; // the address that the state belongs to
let step = 0; // how often the page went to another address

/** Give the state its address: in the place of the last one ("replaceState"), or a step after it ("pushState"). */
function stand(how, packed) {
  history[how](null, "", packed ?? location.pathname + location.search);
  shown = location.href;
}

/** Put the state into the address; not into another one's, should the page go there meanwhile. */
async function remember() {
  const mine = step;
  const packed = await pack(whole());
  if (mine !== step || location.href !== shown) return packed;
  stand("replaceState", packed);
  return packed;
}

let later = 0;
function rememberSoon() {
  clearTimeout(later);
  later = setTimeout(remember, 250);
}

/** Put something else in the place of what is on the page, which stays as a step of the browser's way back. */
async function replace(changes) {
  clearTimeout(later);
  read();
  // The new step has its own address from the start: between two that are alike the browser says nothing of a step.
  const packed = await pack({ ...whole(), ...changes });
  await remember();
  stand("pushState", packed);
  step += 1;
  Object.assign(state, changes);
  write();
}

/** Show what the address holds; false where it holds nothing. */
async function restore() {
  const address = location.href;
  const link = isLink(location.hash);
  const found = link ? await unpack(location.hash) : null;
  if (location.href !== address) return true; // the user went on
  shown = address;
  step += 1;
  if (!link) return false;
  if (!found) {
    $("empty").hidden = results !== null;
    tell("bad_link");
    return true;
  }
  const { why: opened, topN, ...rest } = found;
  infos = []; // so that the models are looked up: these may be others
  Object.assign(state, rest);
  write();
  await run(false);
  if (!results) return true;
  state.topN = topN;
  $("top-n").value = topN ?? results.documents.length;
  refine();
  if (opened && results.answers.some((answer) => answer.model === opened[0] && answer.documents[opened[1]])) openWhy(...opened);
  return true;
}

/** Put the documents of files, one after another, in the place of those that are there. */
async function take(files) {
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
      return tell("refused", { title: () => t("bad_file", { file: file.name }), message: () => t(error.message, error.values) });
    }
  }
  const { text, split, changed } = joinTexts(documents);
  await replace({ documents: text, split, query: query || $("query").value });
  hush();
  const told = t("read", { documents: counted(documents.length), file: files.map((file) => file.name).join(", ") });
  $("count").textContent = told + notes + (changed ? t("read_block") : "");
  say($("count").textContent);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say(t("copied"));
    return true;
  } catch {
    say(t("copy_failed"));
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
    const packed = await remember();
    if (packed) showCode("code_link", BASE + packed);
    else tell("refused", { title: () => t("export_link"), message: () => t("too_long_link") });
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

function setLanguage(wanted) {
  speak(wanted);
  const other = locale() === "zh" ? "en" : "zh";
  $("language").lang = other;
  $("language").textContent = other === "zh" ? "中文" : "English";
  $("shortcut").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
  $("examples").replaceChildren(
    ...EXAMPLES.map((example) => {
      const button = h("button", "", { type: "button", "data-example": example.id }, example.label[locale()]);
      button.addEventListener("click", async () => {
        await replace(stateOf(example));
        run();
      });
      return button;
    }),
  );
  setTheme(document.documentElement.dataset.theme ?? "auto");
  count();
  if (notice) tell(notice.kind, notice.options);
  if (results) present(false);
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

// --- the page comes to life ---

const store = (name, value) => localStorage.setItem(`crossrank-${name}`, value);
const stored = (name) => localStorage.getItem(`crossrank-${name}`);

$("form").addEventListener("submit", (event) => (event.preventDefault(), run()));
$("query").addEventListener("input", () => (age(), say(changedWords(), REST)));
$("documents").addEventListener("input", () => (count(), say(`${$("count").textContent}. ${changedWords()}`, REST)));
for (const radio of document.querySelectorAll("[name=split]")) radio.addEventListener("change", count);
for (const radio of document.querySelectorAll("[name=scale]")) radio.addEventListener("change", () => (refine(), rememberSoon()));
for (const id of ["top-n", "threshold"]) $(id).addEventListener("input", () => (refine(), rememberSoon(), say(keptWords(), REST)));
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
  if (event.target.files.length) await take([...event.target.files]);
  event.target.value = ""; // or the same file could not be chosen again
});
$("code-close").addEventListener("click", () => $("code").close());
$("code-copy").addEventListener("click", async () => {
  $("code-copy").textContent = t((await copy($("code-text").textContent)) ? "copied" : "copy_failed");
});
$("export").addEventListener("click", (event) => {
  const wanted = event.target.dataset?.export;
  if (!wanted) return;
  $("export").open = false;
  $("export").querySelector("summary").focus(); // a dialog gives the focus back to what had it
  EXPORTS[wanted]();
});
document.addEventListener("click", (event) => {
  if (!$("export").contains(event.target)) $("export").open = false;
});
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("dialog[open]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !open) {
    event.preventDefault(); // or a field would submit the form once more
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
  if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
});

setTheme(stored("theme") ?? "auto");
setLanguage(stored("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
$("key").value = key.get();
if (!(await restore())) {
  // Nothing to say it better than an example.
  Object.assign(state, stateOf(EXAMPLES.find((example) => example.first === locale())));
  write();
  run(false);
}
