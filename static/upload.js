// The upload page: take a picture, show it, send it, show the answer. Several pictures, or a
// folder, go to the gallery. Without this script the form posts itself and the page comes back
// with the answer.

import { ask, asProblem, byId, checkSize, fileSize, fill, percent, predictionRow, Problem, receipt, sleep } from "./ask.js";
import { Gallery } from "./gallery.js";

// How often a busy service is asked again before the person sees an error.
const MAX_RETRIES = 3;

const form = byId("upload");
const input = byId("file");
const folder = byId("folder");
const drop = byId("drop");
const preview = byId("preview");
const result = byId("result");
const maxUpload = Number(form.dataset.maxUpload);

let current = null;                    // the picture on show, for "Try again"
let pending = new AbortController();   // aborted as soon as another picture is chosen

const gallery = new Gallery({
  maxUpload,
  closed() {
    document.documentElement.classList.remove("many");
    byId("file").focus();
  },
});

// ---- What the person sees -------------------------------------------------

function show(state) {
  result.dataset.state = state;
  drop.classList.toggle("looking", state === "busy");
  for (const part of result.querySelectorAll("[data-when]")) part.hidden = part.dataset.when !== state;
}

function announce(sentence) {
  byId("announce").textContent = sentence;
}

function showProgress(sentence) {
  byId("progress").textContent = sentence;
  announce(sentence);
  show("busy");
}

function showAnswer(answer) {
  fill(result.querySelector("[data-when=done]"), receipt(answer));
  byId("predictions").replaceChildren(...answer.predictions.map(predictionRow));
  byId("rescue").hidden = answer.attempts < 2;
  show("done");
  const [first, ...others] = answer.predictions.map((p) => `${p.label}, ${percent(p.probability)}`);
  announce(`Most likely ${first}. Then ${others.join("; ")}.`);
  byId("predictions").firstElementChild?.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function showProblem(problem) {
  announce("");                        // the error is an alert: it speaks for itself
  const { code, request_id: request } = problem.fields;
  const reference = [code && `Error code ${code}`, request && `request ${request}`].filter(Boolean).join(", ");
  fill(byId("error"), { ...problem.fields, reference });
  byId("again").hidden = !problem.retryable;
  show("error");
}

function showPicture(file) {
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  byId("picture").hidden = false;
  byId("picture-name").textContent = file.name;
  byId("picture-size").textContent = fileSize(file.size);
}

// ---- One picture ------------------------------------------------------------

async function classify(file, signal) {
  for (let retry = 1; ; retry++) {
    try {
      return await ask(file, signal);
    } catch (problem) {
      if (!problem.waitS || retry > MAX_RETRIES) throw problem;
      showProgress(`${problem.message}. Retrying in ${problem.waitS} s (${retry} of ${MAX_RETRIES})…`);
      await sleep(problem.waitS, signal);
      showProgress("Retrying…");
    }
  }
}

async function look(file) {
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  current = file;
  showPicture(file);
  try {
    checkSize(file, maxUpload);
    showProgress("Recognising…");
    const answer = await classify(file, signal);
    if (!signal.aborted) showAnswer(answer);
  } catch (error) {
    if (signal.aborted) return;
    showProblem(asProblem(error));
  }
}

// ---- One, many, or a folder ---------------------------------------------------

function isPicture(file) {
  return file.type.startsWith("image/");
}

function take(files, fromFolder = false) {
  const wanted = (file) => isPicture(file) || (files.length === 1 && !fromFolder);
  const pictures = Array.from(files).filter(wanted);
  const others = Array.from(files).filter((file) => !wanted(file)).map(({ name }) => name);
  if (files.length === 0 && !fromFolder) return;
  if (pictures.length === 0 && !gallery.open) {
    const detail = fromFolder ? "There is no picture in this folder. Choose another." : "None of the chosen files is a picture.";
    showProblem(new Problem({ title: "No pictures", detail }));
  } else if (pictures.length === 1 && !gallery.open) {
    look(pictures[0]);
  } else {
    pending.abort();
    if (!gallery.open) show("empty");
    document.documentElement.classList.add("many");
    gallery.add(pictures, others);
  }
}

// All files beneath a dropped folder. A browser reads a folder's entries in pieces.
async function filesIn(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    Object.defineProperty(file, "webkitRelativePath", { value: entry.fullPath.slice(1) });
    return [file];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return found;
    for (const inner of entries) found.push(...await filesIn(inner));
  }
}

async function takeDropped(transfer) {
  // The items are gone once this event is over, so all entries are taken before the first wait.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) {
    take(transfer.files);
    return;
  }
  const files = [];
  for (const entry of entries) files.push(...await filesIn(entry));
  take(files, true);
}

// ---- The ways in: choose, drop, paste, sample, try again -------------------------

// The whole window takes a drop, so that a near miss does not navigate away.
function carriesFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

for (const chooser of [input, folder]) {
  chooser.addEventListener("change", () => {
    take(Array.from(chooser.files), chooser === folder);
    chooser.value = "";                // so that choosing the same file again is noticed
  });
  // Space opens the file dialog everywhere, Enter not in every browser.
  chooser.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    chooser.click();
  });
}

form.addEventListener("submit", (event) => event.preventDefault());

window.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  document.documentElement.classList.add("dragging");
});

window.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.documentElement.classList.remove("dragging");
});

window.addEventListener("drop", (event) => {
  document.documentElement.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  takeDropped(event.dataTransfer).catch((error) => {
    console.error(error);
    showProblem(new Problem({ title: "The folder cannot be read", detail: "Use the link 'a whole folder' instead." }));
  });
});

window.addEventListener("paste", (event) => take(event.clipboardData.files));

let sampled = null;                    // the sample clicked last

byId("samples").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-sample]");
  if (!button) return;
  sampled = button;
  const url = button.dataset.sample;
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    const picture = await response.blob();
    if (sampled === button) look(new File([picture], url.split("/").pop(), { type: picture.type }));
  } catch {
    showProblem(new Problem({ title: "Sample unavailable", detail: "The sample could not be loaded. Try again." }));
  }
});

byId("again").addEventListener("click", () => {
  result.focus({ preventScroll: true });   // the button is about to vanish
  look(current);
});

preview.addEventListener("error", () => { preview.hidden = true; });

input.multiple = true;                 // without script the form takes one
