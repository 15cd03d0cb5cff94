// The upload page: take a picture, show it, send it, show the answer.
// Without this script the form posts itself and the page comes back with the answer.

// How often a busy service is asked again before the person is told.
const MAX_RETRIES = 3;
// Seconds waited where a 503 does not say, and the most that is waited where it does.
const DEFAULT_WAIT_S = 1;
const LONGEST_WAIT_S = 30;

const byId = (id) => document.getElementById(id);
const form = byId("upload");
const input = byId("file");
const drop = byId("drop");
const preview = byId("preview");
const result = byId("result");
const rowTemplate = byId("prediction-row").content.firstElementChild;
const maxUpload = Number(form.dataset.maxUpload);

let current = null;                    // the picture on show, for "Try again"
let pending = new AbortController();   // aborted as soon as another picture is chosen

class Problem extends Error {
  constructor({ title, detail = "", code = "", request_id = "", retryable = false }) {
    super(title);
    this.fields = { title, detail, code, request_id };
    this.retryable = retryable;
  }
}

// ---- What the person sees -------------------------------------------------

function fill(root, values) {
  for (const element of root.querySelectorAll("[data-field]")) {
    if (element.dataset.field in values) element.textContent = values[element.dataset.field];
  }
}

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

function percent(probability) {
  return probability > 0 && probability < 0.0005 ? "< 0.1%" : `${(100 * probability).toFixed(1)}%`;
}

function fileSize(bytes) {
  return bytes >= 1e5 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}

function predictionRow({ label, probability }) {
  const row = rowTemplate.cloneNode(true);
  fill(row, { label, percent: percent(probability) });
  row.querySelector("meter").value = probability;
  return row;
}

function showAnswer(answer) {
  const times = Object.entries(answer.timings_ms).map(([step, ms]) => [step, `${ms.toFixed(1)} ms`]);
  fill(result.querySelector("[data-when=done]"), { ...answer, ...Object.fromEntries(times) });
  byId("predictions").replaceChildren(...answer.predictions.map(predictionRow));
  byId("rescue").hidden = answer.attempts < 2;
  show("done");
  const [first, ...others] = answer.predictions.map((p) => `${p.label}, ${percent(p.probability)}`);
  announce(`Most likely ${first}. Then ${others.join("; ")}.`);
  byId("predictions").firstElementChild?.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function showProblem(problem) {
  announce("");                        // the error is an alert: it speaks for itself
  fill(byId("error"), problem.fields);
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

// ---- Asking the service ---------------------------------------------------

async function problemIn(response) {
  const stated = await response.json().catch(() => null);
  return new Problem(stated?.title ? stated : {
    title: "No answer",
    detail: `The server said ${response.status} and nothing more.`,
    retryable: response.status >= 500,
  });
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
  });
}

async function post(file, signal) {
  const request = { method: "POST", headers: { Accept: "application/json" }, signal };
  if (file.type.startsWith("image/")) {
    request.headers["Content-Type"] = file.type;
    request.body = file;
  } else {                             // the browser cannot tell what it is: let the server look
    request.body = new FormData();
    request.body.append("image", file);
  }
  try {
    return await fetch(form.dataset.endpoint, request);
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem({
      title: "The server cannot be reached",
      detail: "Your picture is still here. Check the connection and try again.",
      retryable: true,
    });
  }
}

async function classify(file, signal) {
  for (let retry = 1; ; retry++) {
    const response = await post(file, signal);
    if (response.ok) return response.json();
    const problem = await problemIn(response);
    if (response.status !== 503 || !problem.retryable || retry > MAX_RETRIES) throw problem;
    const asked = Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S;
    const wait = Math.min(asked, LONGEST_WAIT_S);
    showProgress(`${problem.message}. Asking again in ${wait} s (${retry} of ${MAX_RETRIES})…`);
    await sleep(wait, signal);
    showProgress("Looking again…");
  }
}

async function look(file) {
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  current = file;
  showPicture(file);
  try {
    if (file.size === 0) {
      throw new Problem({ title: "An empty file", detail: "There is nothing in this file. Choose another." });
    }
    if (file.size > maxUpload) {
      throw new Problem({
        title: "Too large",
        detail: `This file is over the limit of ${fileSize(maxUpload)}. Send a smaller copy.`,
      });
    }
    showProgress("Looking…");
    const answer = await classify(file, signal);
    if (!signal.aborted) showAnswer(answer);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Problem)) console.error(error);
    showProblem(error instanceof Problem ? error : new Problem({
      title: "The answer cannot be read",
      detail: "The server answered something this page does not understand. Try again.",
      retryable: true,
    }));
  }
}

// ---- Five ways in: choose, drop, paste, sample, try again --------------------

// The whole window takes a drop, so that a near miss does not navigate away.
function carriesFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

function take(files) {
  if (files.length > 0) look(files[0]);
}

input.addEventListener("change", () => {
  take(input.files);
  input.value = "";                    // so that choosing the same file again is noticed
});

// Space opens the file dialog everywhere, Enter not in every browser.
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  input.click();
});

form.addEventListener("submit", (event) => event.preventDefault());

window.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  drop.classList.add("dragging");
});

window.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) drop.classList.remove("dragging");
});

window.addEventListener("drop", (event) => {
  drop.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});

window.addEventListener("paste", (event) => take(event.clipboardData.files));

byId("samples").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-sample]");
  if (!button) return;
  const url = button.dataset.sample;
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    const picture = await response.blob();
    look(new File([picture], url.split("/").pop(), { type: picture.type }));
  } catch {
    showProblem(new Problem({ title: "No such sample", detail: "This sample picture could not be fetched." }));
  }
});

byId("again").addEventListener("click", () => {
  result.focus({ preventScroll: true });   // the button is about to vanish
  look(current);
});

preview.addEventListener("error", () => { preview.hidden = true; });

document.documentElement.classList.add("js");
byId("samples").hidden = false;
