// The status page: asks for the snapshot once a second and writes it into the page that is
// already there. Nothing is rebuilt: a row is found by its key, a text changes only if it differs.
//
//   data-path="queue.waiting"   the element shows this value of the snapshot
//   data-field="mean_ms"        the same inside a row, of the row's own item
//   data-format="ms"            how a number is written, see FORMATS
//   data-list="workers" data-key="id" data-row="worker-row"   rows copied from that <template>
//   data-empty="workers"        shown while that list is empty

const INTERVAL_MS = 1000;
// A snapshot that takes longer counts as no answer.
const PATIENCE_MS = 5000;

const byId = (id) => document.getElementById(id);
const page = byId("status");
const pause = byId("pause");
const copy = byId("copy");

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
  ms: (value) => `${value.toFixed(1)} ms`,
  age,
};

function written(value, format) {
  if (value === null || value === undefined) return "–";
  if (format in FORMATS && typeof value === "number") return FORMATS[format](value);
  return String(value);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
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
  items.forEach((item, position) => {
    const id = String(list.dataset.key ? item[list.dataset.key] : position);
    let row = rows.get(id);
    rows.delete(id);                     // should a key come twice, each gets its row
    if (!row) {
      row = byId(list.dataset.row).content.firstElementChild.cloneNode(true);
      row.dataset.id = id;
    }
    if ("state" in item) row.dataset.state = item.state;
    fill(row, "field", item);
    if (list.children[position] !== row) list.insertBefore(row, list.children[position] ?? null);
  });
  while (list.children.length > items.length) list.lastElementChild.remove();
  page.querySelector(`[data-empty="${list.dataset.list}"]`).hidden = items.length > 0;
}

function setCondition(condition, sentence, advice = "") {
  page.dataset.condition = condition;
  setText(byId("condition"), sentence);
  setText(byId("condition-detail"), advice);
}

function setDown(sentence, detail = "") {
  const stale = byId("figures").hidden ? "" : " The figures below are the last that came.";
  setCondition("down", sentence, `${detail}This page keeps asking and comes back by itself.${stale}`);
}

function showSnapshot(snapshot) {
  fill(page, "path", snapshot);
  for (const list of page.querySelectorAll("[data-list]")) {
    fillList(list, snapshot[list.dataset.list] ?? []);
  }
  for (const button of page.querySelectorAll("[data-let-out]")) button.hidden = false;
  byId("figures").hidden = false;
  const able = snapshot.workers.filter(({ state }) => state === "ready" || state === "busy").length;
  if (able > 0) {
    setCondition("serving", `Serving, with ${able} worker${able === 1 ? "" : "s"} on watch`);
  } else {
    setCondition("no-workers", "No worker on watch",
      "Nothing can be recognised until a worker joins. The line below starts one.");
  }
}

// ---- What an operator may do --------------------------------------------------------

async function letOut(button) {
  const sha256 = button.closest("li").dataset.id;
  const question = "Let this picture out of quarantine? Should it kill again, two more child processes are lost.";
  if (!window.confirm(question)) return;
  let response;
  try {
    response = await fetch(`/v1/quarantine/${sha256}`, { method: "DELETE" });
  } catch {
    setText(button, "The web server does not answer; try again");
    return;
  }
  if (response.ok) await refresh();
  else setText(button, (await response.json()).detail);
}

page.addEventListener("click", (event) => {
  const button = event.target.closest("[data-let-out]");
  if (button) letOut(button).catch(console.error);
});

// ---- Asking once a second --------------------------------------------------------

async function refresh() {
  let response;
  try {
    response = await fetch("/v1/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    setDown("The web server does not answer");
    return;
  }
  if (response.ok) {
    showSnapshot(await response.json());
  } else {
    setDown("The broker cannot be reached", `Nothing answers at ${page.dataset.broker}. `);
  }
}

async function watch() {
  const paused = pause.getAttribute("aria-pressed") === "true";
  if (!paused && !document.hidden) await refresh().catch(console.error);
  setTimeout(watch, INTERVAL_MS);
}

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(pause.getAttribute("aria-pressed") !== "true"));
});

copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("join-line").textContent);
  copy.textContent = "Copied";
  setTimeout(() => { copy.textContent = "Copy"; }, 2000);
});

pause.hidden = false;
copy.hidden = !navigator.clipboard;      // offered by browsers on localhost and over https only
watch();
