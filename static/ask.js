// Asking the service, and how its answers are written: what upload, gallery and camera share.

// Seconds waited where a 503 does not say, and the most that is waited where it does.
const DEFAULT_WAIT_S = 1;
const LONGEST_WAIT_S = 30;

export const byId = (id) => document.getElementById(id);

// A failure, in the fields of RFC 9457. With `waitS` it passes by itself: a 503, or a server
// that is not there just now.
export class Problem extends Error {
  constructor({ title, detail = "", code = "", request_id = "", retryable = false, waitS = 0 }) {
    super(title);
    this.fields = { title, detail, code, request_id };
    this.retryable = retryable;
    this.waitS = waitS;
  }
}

async function problemIn(response) {
  const stated = await response.json().catch(() => null);
  const problem = stated?.title ? stated : {
    title: "Server error",
    detail: `The server failed (${response.status}) without giving a reason.`,
    retryable: response.status >= 500,
  };
  if (response.status === 503 && problem.retryable) {
    const asked = Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S;
    problem.waitS = Math.min(asked, LONGEST_WAIT_S);
  }
  return new Problem(problem);
}

// The answer to one picture; throws a Problem, or the signal's reason once that is aborted.
export async function ask(picture, signal) {
  const request = { method: "POST", headers: { Accept: "application/json" }, signal };
  if (picture.type.startsWith("image/")) {
    request.headers["Content-Type"] = picture.type;
    request.body = picture;
  } else {                             // the browser cannot tell what it is: let the server look
    request.body = new FormData();
    request.body.append("image", picture);
  }
  let response;
  try {
    response = await fetch("/v1/classify?top_k=5", request);
    if (response.ok) return await response.json();
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem({
      title: "The server cannot be reached",
      detail: "Your picture is still here. Check the connection and try again.",
      retryable: true,
      waitS: DEFAULT_WAIT_S,
    });
  }
  throw await problemIn(response);
}

// Refuses what the server would, before it is sent.
export function checkSize(file, limit) {
  if (file.size === 0) {
    throw new Problem({ title: "Empty file", detail: "This file has no content. Choose another." });
  }
  if (file.size > limit) {
    throw new Problem({
      title: "File too large",
      detail: `This file has ${fileSize(file.size)}; the limit is ${fileSize(limit).replace(".0", "")}. Choose a smaller copy.`,
    });
  }
}

// Any error as a sentence for a person; what is our own mistake goes to the console too.
export function asProblem(error) {
  if (error instanceof Problem) return error;
  console.error(error);
  return new Problem({
    title: "Unexpected reply",
    detail: "This page cannot read the server's reply. Reload it and try again.",
    retryable: true,
  });
}

export function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

// ---- Writing ------------------------------------------------------------------

export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

export function fill(root, values) {
  for (const element of root.querySelectorAll("[data-field]")) {
    if (element.dataset.field in values) setText(element, values[element.dataset.field]);
  }
}

// Puts the elements first in the list, in this order. Whatever has to be moved keeps the focus:
// the keyboard must not be thrown to the top of the page because a row changed places.
export function arrange(list, elements) {
  const focused = document.activeElement;
  elements.forEach((element, position) => {
    const there = list.children[position];
    if (there !== element) list.insertBefore(element, there ?? null);
  });
  if (list.contains(focused)) focused.focus({ preventScroll: true });
}

export function percent(probability) {
  return probability > 0 && probability < 0.0005 ? "< 0.1%" : `${(100 * probability).toFixed(1)}%`;
}

// Rounded up: a file just over the limit must not seem to be just the limit.
export function fileSize(bytes) {
  return bytes >= 1e5 ? `${(Math.ceil(bytes / 1e5) / 10).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}

export function predictionRow({ label, probability }) {
  const row = byId("prediction-row").content.firstElementChild.cloneNode(true);
  fill(row, { label, percent: percent(probability) });
  row.querySelector("meter").value = probability;
  return row;
}

// What of an answer stands on its receipt. Its own `worker` is a name, that of the times a duration.
export function receipt(answer) {
  const times = Object.entries(answer.timings_ms).map(([step, ms]) => [step, `${ms.toFixed(1)} ms`]);
  return { ...Object.fromEntries(times), ...answer };
}
