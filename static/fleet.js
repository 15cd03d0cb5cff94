// The table of workers: which of them are on show, in which order, a page at a time.

import { byId, setText } from "./ask.js";

// Workers from which on searching is easier than reading.
const MANY = 9;

const SIZE = Number(byId("pager").dataset.pageSize);
const byName = new Intl.Collator("en", { numeric: true }).compare;
const find = byId("find");
const headers = document.querySelectorAll("[data-sort]");

const view = { sort: "name", down: false, page: 0 };
const load = ({ in_flight, slots }) => in_flight / Math.max(1, slots);
const valueOf = (worker, key) => (key === "load" ? load(worker) : worker[key]);

function compare(a, b) {
  const [x, y] = [valueOf(a, view.sort), valueOf(b, view.sort)];
  if (x === null || y === null) return (x === null) - (y === null);   // without a figure: last
  const order = typeof x === "number" ? x - y : byName(x, y);
  return (view.down ? -order : order) || byName(a.name, b.name) || byName(a.id, b.id);
}

// The rows to show of all workers; keeps the controls around the table in step.
export function select(workers) {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = workers.filter((worker) => {
    const text = `${worker.name} ${worker.host} ${worker.model} ${worker.state}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  found.sort(compare);
  const last = Math.max(0, Math.ceil(found.length / SIZE) - 1);
  view.page = Math.min(view.page, last);
  const first = view.page * SIZE;
  const shown = found.slice(first, first + SIZE);
  find.hidden = workers.length < MANY && words.length === 0;
  byId("pager").hidden = workers.length <= SIZE && words.length === 0;
  const count = (n) => n.toLocaleString("en");
  setText(byId("pager-line"), found.length === 0 ? `None of ${count(workers.length)} matches.`
    : `${count(first + 1)} to ${count(first + shown.length)} of ${count(found.length)}${words.length ? ` that match, ${count(workers.length)} in all` : ""}.`);
  byId("previous").hidden = byId("next").hidden = last === 0;
  byId("previous").disabled = view.page === 0;
  byId("next").disabled = view.page === last;
  return shown;
}

// Call `changed` whenever a person wants another selection.
export function watchControls(changed) {
  find.addEventListener("input", () => { view.page = 0; changed(); });
  byId("previous").addEventListener("click", () => { view.page -= 1; changed(); });
  byId("next").addEventListener("click", () => { view.page += 1; changed(); });
  for (const header of headers) {
    header.disabled = false;
    header.addEventListener("click", () => {
      const key = header.dataset.sort;
      // Text goes from A, figures from the largest; a second click turns it round.
      view.down = view.sort === key ? !view.down : !["name", "state", "model"].includes(key);
      view.sort = key;
      view.page = 0;
      for (const other of headers) other.parentElement.removeAttribute("aria-sort");
      header.parentElement.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      changed();
    });
  }
}
