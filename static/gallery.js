// Many pictures at once: a card for each, a few in flight, progress for the whole, and a table of
// the answers to take home.

import { arrange, ask, asProblem, byId, checkSize, fill, percent, predictionRow, receipt, setText, sleep } from "./ask.js";
import { saveCsv, saveJson } from "./save.js";
import { Thumbnails } from "./thumbnails.js";

// Pictures on their way at a time: enough to keep a small fleet busy, few enough to leave room
// for others in the broker's queue.
const LANES = 4;
// Milliseconds between two orderings of the cards while answers come.
const ORDER_EVERY_MS = 500;
// Cards one page holds before it becomes slow.
const MAX_PICTURES = 5000;
// Answers the rate is taken from.
const RATE_WINDOW = 40;

const byName = new Intl.Collator("en", { numeric: true, sensitivity: "base" }).compare;
const sureness = (item) => item.answer?.predictions[0].probability;

// What comes first; those without an answer always come last.
const ORDERS = {
  added: (a, b) => a.number - b.number,
  name: (a, b) => byName(a.name, b.name),
  label: (a, b) => byName(a.label, b.label) || sureness(b) - sureness(a),
  sure: (a, b) => sureness(b) - sureness(a),
  unsure: (a, b) => sureness(a) - sureness(b),
};
const OF_ANSWERS = ["label", "sure", "unsure"];

const count = (n) => n.toLocaleString("en");
const pictures = (n) => `${count(n)} picture${n === 1 ? "" : "s"}`;

export class Gallery {
  constructor({ maxUpload, closed }) {
    this.maxUpload = maxUpload;
    this.closed = closed;
    this.section = byId("gallery");
    this.cards = byId("cards");
    this.dialog = byId("detail");
    this.thumbnails = new Thumbnails();
    this.reset();
    byId("gallery-sort").addEventListener("change", () => this.arrange());
    byId("gallery-filter").addEventListener("change", () => this.arrange());
    byId("gallery-retry").addEventListener("click", () => this.retry());
    byId("gallery-pause").addEventListener("click", () => this.pause());
    byId("gallery-csv").addEventListener("click", () => saveCsv(this.shown()));
    byId("gallery-json").addEventListener("click", () => saveJson(this.shown()));
    byId("gallery-add").addEventListener("click", () => byId("file").click());
    byId("gallery-close").addEventListener("click", () => this.close());
    this.cards.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) this.showDetail(this.items[Number(card.dataset.number)]);
    });
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.turn(step);
    });
    this.dialog.addEventListener("close", () => URL.revokeObjectURL(byId("detail-picture").src));
  }

  get open() {
    return !this.section.hidden;
  }

  reset() {
    this.items = [];
    this.waiting = [];                 // the next one last
    this.looking = 0;
    this.tally = { done: 0, failed: 0 };
    this.others = [];                  // names of files that are not pictures
    this.overLimit = 0;                // pictures over the limit
    this.hold = null;                  // while the service is busy or away: { reason, until }
    this.paused = false;
    this.finished = [];                // the times of the last answers, in ms
    this.arrangeAt = 0;
    this.stop = new AbortController();
  }

  // ---- Coming and going -------------------------------------------------------

  // `others`: names of files that were chosen as well, and are not pictures.
  add(files, others = []) {
    const room = MAX_PICTURES - this.items.length;
    this.others = this.others.concat(others);
    this.overLimit += Math.max(0, files.length - room);
    const fresh = files.slice(0, room).map((file, n) => this.newItem(file, this.items.length + n));
    this.items.push(...fresh);
    this.waiting.unshift(...fresh.toReversed());
    this.cards.append(...fresh.map((item) => item.card));
    const was = this.open;
    this.section.hidden = false;
    if (!was) byId("gallery-title").focus();
    this.say(`${pictures(fresh.length)} added.`);
    this.arrange();
    this.work();
  }

  newItem(file, number) {
    const card = byId("card").content.firstElementChild.cloneNode(true);
    const item = { file, number, card, name: file.webkitRelativePath || file.name, label: "", answer: null, problem: null };
    card.dataset.number = number;
    fill(card, { name: item.name });
    this.setState(item, "waiting");
    this.thumbnails.watch(card, file);
    return item;
  }

  close() {
    this.stop.abort();
    this.thumbnails.forget();
    this.cards.replaceChildren();
    this.section.hidden = true;
    document.title = document.title.replace(/^\d+% · /, "");
    this.reset();
    this.closed();
  }

  // ---- Asking: a few lanes, each takes the next picture -----------------------------

  work() {
    this.refresh();
    while (this.looking < LANES && this.waiting.length > 0 && !this.hold && !this.paused) {
      this.look(this.waiting.pop());
    }
  }

  async look(item) {
    const { signal } = this.stop;
    this.looking++;
    this.setState(item, "looking");
    try {
      checkSize(item.file, this.maxUpload);
      item.answer = await ask(item.file, signal);
      item.label = item.answer.predictions[0].label;
      this.settle(item, "done");
    } catch (error) {
      if (signal.aborted) return;      // another round began: its figures are not ours
      const problem = asProblem(error);
      if (problem.waitS) {             // nobody's fault: it keeps its place, and all wait
        this.setState(item, "waiting");
        this.waiting.push(item);
        this.waitFor(problem, signal);
      } else {
        item.problem = problem;
        this.settle(item, "failed");
      }
    }
    this.looking--;
    this.work();
  }

  async waitFor(problem, signal) {
    if (this.hold) return;
    this.hold = problem;
    await sleep(problem.waitS, signal).catch(() => {});
    if (signal.aborted) return;
    this.hold = null;
    this.work();
  }

  settle(item, state) {
    this.tally[state]++;
    this.finished.push(performance.now());
    if (this.finished.length > RATE_WINDOW) this.finished.shift();
    this.setState(item, state);
    if (this.tally.done + this.tally.failed === this.items.length) {
      this.say(this.sum());
    }
  }

  retry() {
    const failed = this.items.filter((item) => item.problem);
    for (const item of failed) {
      item.problem = null;
      this.setState(item, "waiting");
    }
    this.tally.failed = 0;
    this.waiting.unshift(...failed.toReversed());
    byId("gallery-title").focus({ preventScroll: true });   // the button is about to vanish
    this.work();
  }

  pause() {
    this.paused = !this.paused;
    this.finished = [];
    this.work();
  }

  // ---- What the person sees --------------------------------------------------------

  setState(item, state) {
    const { card, answer, problem } = item;
    card.dataset.state = state;
    const first = answer?.predictions[0];
    fill(card, {
      label: first?.label ?? { waiting: "Waiting", looking: "Recognising…", failed: problem?.message }[state],
      percent: first ? percent(first.probability) : "",
      detail: problem?.fields.detail ?? "",
    });
    card.querySelector("meter").value = first?.probability ?? 0;
  }

  // All figures, at most once a frame.
  refresh() {
    if (this.drawn) return;
    this.drawn = requestAnimationFrame(() => {
      this.drawn = null;
      this.showFigures();
      const now = performance.now();
      if (now >= this.arrangeAt || this.looking === 0) this.arrange(now);
    });
  }

  showFigures() {
    const { done, failed } = this.tally;
    const all = this.items.length;
    const over = done + failed;
    const finished = over === all;
    byId("gallery-progress").max = all;
    byId("gallery-progress").value = over;
    setText(byId("gallery-title"), pictures(all));
    setText(byId("gallery-line"), [this.pace(finished), ...this.skipped()].join(" "));
    byId("gallery-pause").hidden = finished;
    setText(byId("gallery-pause"), this.paused ? "Resume" : "Pause");
    byId("gallery-retry").hidden = failed === 0;
    setText(byId("gallery-retry"), `Retry ${count(failed)}`);
    byId("gallery-csv").disabled = byId("gallery-json").disabled = over === 0;
    this.section.dataset.state = finished ? "finished" : this.paused ? "paused" : this.hold ? "holding" : "working";
    const title = document.title.replace(/^\d+% · /, "");
    document.title = finished ? title : `${Math.floor((100 * over) / all)}% · ${title}`;
  }

  pace(finished) {
    const over = this.tally.done + this.tally.failed;
    const left = this.items.length - over;
    if (finished) return this.sum();
    const failures = this.tally.failed ? ` (${count(this.tally.failed)} failed)` : "";
    const so = `${count(over)} done${failures}, ${count(left)} to go`;
    if (this.paused) return `${so}. Paused.`;
    if (this.hold) return `${so}. ${this.hold.message}. Continues automatically.`;
    const seconds = (performance.now() - this.finished[0]) / 1000;
    if (this.finished.length < 5) return `${so}.`;
    const rate = this.finished.length / seconds;
    const rest = left / rate;
    const time = rest < 90 ? `${Math.ceil(rest)} s` : `${Math.ceil(rest / 60)} min`;
    return `${so}, ${rate.toFixed(rate < 10 ? 1 : 0)} per second, about ${time} left.`;
  }

  sum() {
    const failures = this.tally.failed ? `, ${count(this.tally.failed)} failed` : "";
    return `Done: ${count(this.tally.done)} recognised${failures}.`;
  }

  skipped() {
    const { others, overLimit } = this;
    const sentences = [];
    if (others.length === 1) sentences.push(`Skipped ${others[0]}: not a picture.`);
    if (others.length > 1) sentences.push(`Skipped ${count(others.length)} files that are not pictures.`);
    if (overLimit) sentences.push(`Skipped ${pictures(overLimit)} beyond the limit of ${count(MAX_PICTURES)}.`);
    return sentences;
  }

  // To a screen reader only what matters: the line above changes too often.
  say(sentence) {
    byId("gallery-announce").textContent = sentence;
  }

  // ---- Order and choice ------------------------------------------------------------

  // Those that pass the filter, in their order: what is on show, and what is saved.
  shown() {
    const order = byId("gallery-sort").value;
    const filter = byId("gallery-filter").value;
    const passes = filter === "" ? () => true
      : filter === "failed" ? (item) => item.problem
      : (item) => `label ${item.label}` === filter;
    const chosen = this.items.filter(passes);
    if (!OF_ANSWERS.includes(order)) return chosen.sort(ORDERS[order]);
    const answered = chosen.filter((item) => item.answer).sort(ORDERS[order]);
    return [...answered, ...chosen.filter((item) => !item.answer)];
  }

  arrange(now = performance.now()) {
    this.arrangeAt = now + ORDER_EVERY_MS;
    this.offerLabels();
    const shown = this.shown();
    const wanted = new Set(shown);
    for (const item of this.items) item.card.hidden = !wanted.has(item);
    arrange(this.cards, shown.map(({ card }) => card));
  }

  // The filter offers every label there is, with its count; what is chosen stays chosen.
  offerLabels() {
    const tally = new Map();
    for (const { label } of this.items) if (label) tally.set(label, (tally.get(label) ?? 0) + 1);
    const offers = [["", `Everything (${count(this.items.length)})`]];
    if (this.tally.failed) offers.push(["failed", `Failed (${count(this.tally.failed)})`]);
    for (const [label, n] of [...tally].sort(([a], [b]) => byName(a, b))) {
      offers.push([`label ${label}`, `${label} (${count(n)})`]);
    }
    const select = byId("gallery-filter");
    const chosen = select.value;
    while (select.options.length > offers.length) select.lastElementChild.remove();
    offers.forEach(([value, text], position) => {
      const option = select.options[position] ?? select.appendChild(document.createElement("option"));
      if (option.getAttribute("value") !== value) option.value = value;
      setText(option, text);
    });
    select.value = offers.some(([value]) => value === chosen) ? chosen : "";
  }

  // ---- One of them, large ------------------------------------------------------------

  showDetail(item) {
    this.detailed = item;
    const picture = byId("detail-picture");
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(item.file);
    picture.alt = item.label;
    fill(this.dialog, {
      name: item.name,
      title: item.problem?.message ?? "",
      detail: item.problem?.fields.detail ?? (item.answer ? "" : "Waiting."),
      worker: "", tries: item.answer?.attempts > 1 ? `${item.answer.attempts} tries` : "first try", total: "", request_id: item.problem?.fields.request_id ?? "",
      ...(item.answer ? receipt(item.answer) : {}),
    });
    byId("detail-predictions").replaceChildren(...(item.answer?.predictions ?? []).map(predictionRow));
    byId("detail-receipt").hidden = !item.answer;
    if (!this.dialog.open) this.dialog.showModal();
  }

  turn(step) {
    const shown = this.shown();
    const next = shown[shown.indexOf(this.detailed) + step];
    if (next) this.showDetail(next);
  }
}
