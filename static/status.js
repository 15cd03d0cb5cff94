// The status page: asks for the snapshot once a second and writes it into the page that is
// already there. Nothing is rebuilt: a row is found by its key, a text changes only if it differs.
//
//   data-path="queue.waiting"   the element shows this value of the snapshot
//   data-field="p95_ms"         the same inside a row, of the row's own item
//   data-format="ms"            how a number is written, see FORMATS
//   data-list="workers" data-key="id" data-row="worker-row"   rows copied from that <template>
//   data-empty="workers"        shown while that list is empty
//   data-do="drain"             a button, of the row's own item; see operate.js

import { arrange, byId, setText } from "./ask.js";
import { Chart, column, rates } from "./chart.js";
import { select, watchControls } from "./fleet.js";
import { propose } from "./operate.js";

// From asking to asking: a little less than the second that is promised.
const INTERVAL_MS = 900;
// A snapshot that takes longer counts as no answer.
const PATIENCE_MS = 5000;

const page = byId("status");
const pause = byId("pause");
const copy = byId("copy");
const charts = Object.fromEntries(Array.from(document.querySelectorAll("[data-chart]"),
  (figure) => [figure.dataset.chart, new Chart(figure)]));

let last = null;                       // the newest snapshot
let figuresAt = new Date();            // when the figures shown came, at first with the page

// ---- How values are written: the same words as in status.tpl ----------------

function age(seconds) {
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(seconds / 3600);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const FORMATS = {
  count: (value) => value.toLocaleString("en"),
  ms: (value) => (value < 1000 ? `${value.toFixed(value < 100 ? 1 : 0)} ms` : `${(value / 1000).toFixed(1)} s`),
  age,
};

function written(value, format) {
  if (value === null || value === undefined) return "–";
  if (format in FORMATS && typeof value === "number") return FORMATS[format](value);
  return String(value);
}

// ---- Filling the page ---------------------------------------------------------

function fill(root, attribute, item) {
  for (const element of root.querySelectorAll(`[data-${attribute}]`)) {
    const value = element.dataset[attribute].split(".").reduce((found, step) => found?.[step], item);
    setText(element, written(value, element.dataset.format));
  }
}

function fillList(list, items) {
  const rows = new Map(Array.from(list.children, (row) => [row.dataset.id, row]));
  const wanted = items.map((item, position) => {
    const id = String(list.dataset.key ? item[list.dataset.key] : position);
    let row = rows.get(id);
    rows.delete(id);                     // should a key come twice, each gets its row
    if (!row) {
      row = byId(list.dataset.row).content.firstElementChild.cloneNode(true);
      row.dataset.id = id;
    }
    if ("state" in item) row.dataset.state = item.state;
    if ("kind" in item) row.dataset.kind = item.kind;
    if ("slots" in item) showLoad(row.querySelector("meter"), item);
    fill(row, "field", item);
    return row;
  });
  arrange(list, wanted);
  while (list.children.length > items.length) list.lastElementChild.remove();
}

function showLoad(meter, { in_flight: busy, slots }) {
  meter.max = Math.max(1, slots);
  meter.value = busy;
}

// What an event is about, for its colour.
function kind(text) {
  if (/ lost: | refused: | ejected | in quarantine for |: (crash|hung) /.test(text)) return "bad";
  return / joined from | is back/.test(text) ? "good" : "";
}

// The sentences of the lists, as in status.tpl.
function counted(n, thing) {
  return `${written(n, "count")} ${thing}${n === 1 ? "" : "s"}`;
}

function refusals(n) {
  if (!n) return "";
  return n === 1 ? " Refused once since." : ` Refused ${written(n, "count")} times since.`;
}

function nobody([gone]) {
  if (!gone) return "No worker is connected.";
  return `No worker is connected. The last one, ${gone.name}, left ${age(gone.ago_s)} ago: ${gone.reason}.`;
}

// What the lists of the page show, of a snapshot.
function listed({ workers, departed, quarantine, models, events }) {
  const lines = events.map((event) => ({
    ...event,
    line: event.outcome ? `${event.text}, ${event.outcome}` : event.text,
    kind: kind(event.text),
  }));
  const held = quarantine.map((picture) => ({
    ...picture,
    story: `Two processes died on it.${refusals(picture.refused)}`,
  }));
  const loads = models.map((model) => ({
    ...model,
    load: `${counted(model.workers, "worker")}, ${counted(model.waiting, "picture")} waiting`,
  }));
  return { workers: select(workers), departed, quarantine: held, models: loads, events: lines };
}

function setCondition(condition, sentence, advice = "") {
  page.dataset.condition = condition;
  setText(byId("condition"), sentence);
  setText(byId("condition-detail"), advice);
}

// 24 hours with seconds, as in the logs.
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

function setDown(sentence, reason = "", advice = "") {
  const stale = byId("figures").hidden ? "" : ` The figures below are from ${clock.format(figuresAt)}.`;
  setCondition("down", sentence, `${reason}Retrying automatically.${stale}${advice}`);
}

function showSnapshot(snapshot) {
  last = snapshot;
  figuresAt = new Date();
  fill(page, "path", snapshot);
  for (const [name, items] of Object.entries(listed(snapshot))) {
    fillList(page.querySelector(`[data-list="${name}"]`), items);
    page.querySelector(`[data-empty="${name}"]`).hidden = snapshot[name].length > 0;
  }
  setText(page.querySelector("[data-empty=workers]"), nobody(snapshot.departed));
  setText(byId("departed-count"), written(snapshot.departed.length, "count"));
  const { security = {} } = snapshot.broker;
  byId("insecure").hidden = !Object.values(security).includes("insecure");
  byId("only-here").hidden = security.backend !== "loopback";
  byId("let-in").hidden = security.backend !== "encrypted";
  byId("clear").hidden = snapshot.quarantine.length < 2;
  charts.rate.show(rates(snapshot.trend));
  charts.waiting.show(column(snapshot.trend, "waiting"));
  byId("figures").hidden = false;
  const able = snapshot.workers.filter(({ state }) => state === "ready" || state === "busy").length;
  if (able > 0) {
    setCondition("serving", `Serving: ${counted(able, "worker")}`);
  } else {
    setCondition("no-workers", "No worker connected",
      "Nothing can be recognised until a worker joins. Start one with the command below.");
  }
}

page.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || !last) return;        // before the first answer nothing is known of a row
  const row = button.closest("[data-id]");
  const items = row ? last[row.parentElement.dataset.list] : [];
  const key = row?.parentElement.dataset.key;
  propose(button.dataset.do, items.find((item) => item[key] === row.dataset.id), () => refresh().catch(console.error));
});

watchControls(() => { if (last) showSnapshot(last); });

// ---- Asking once a second --------------------------------------------------------

async function refresh() {
  let response;
  let snapshot;
  try {
    response = await fetch("/v1/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    snapshot = await response.json();
  } catch {
    setDown("The web server does not answer");
    return;
  }
  if (response.ok) {
    showSnapshot(snapshot);
  } else {
    setDown("The broker cannot be reached", `No reply from ${page.dataset.broker}. `,
      " If the broker does not come back, start it with: python broker.py");
  }
}

async function watch() {
  const began = performance.now();
  const paused = pause.getAttribute("aria-pressed") === "true";
  if (!paused && !document.hidden) await refresh().catch(console.error);
  setTimeout(watch, Math.max(0, INTERVAL_MS - (performance.now() - began)));
}

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(pause.getAttribute("aria-pressed") !== "true"));
});

copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("join-line").textContent);
  copy.textContent = "Copied";
  setTimeout(() => { copy.textContent = "Copy"; }, 2000);
});

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh().catch(console.error); });

copy.hidden = !navigator.clipboard;      // offered by browsers on localhost and over https only
watch();
