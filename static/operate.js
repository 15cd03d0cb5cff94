// What an operator may do from the status page. Whatever harms asks before.

import { byId, setText } from "./ask.js";

const dialog = byId("confirm");
const yes = byId("confirm-yes");

async function send(method, url, body) {
  let response;
  try {
    response = await fetch(url, { method, headers: body && { "Content-Type": "application/json" }, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The web server does not answer. Try again.");
  }
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(told.detail || `The server said ${response.status} and nothing more.`);
  return told.detail;
}

const holds = ({ in_flight: n }) => (n === 1 ? "the picture it holds" : `the ${n} pictures it holds`);

// Each as a question: what it is called, what it does, and how it is done.
const QUESTIONS = {
  drain: (worker) => ({
    title: `Drain ${worker.name}?`,
    text: `It gets no more pictures, finishes ${worker.in_flight ? holds(worker) : "what it holds"}, and ends. To have it back, start it again.`,
    action: "Drain",
    run: () => send("DELETE", `/v1/workers/${worker.id}`),
  }),
  remove: (worker) => ({
    title: `Remove ${worker.name} at once?`,
    text: `${worker.in_flight ? `Other workers get ${holds(worker)}` : "It holds no picture"}, and it ends. To have it back, start it again.`,
    action: "Remove",
    run: () => send("DELETE", `/v1/workers/${worker.id}?now=1`),
  }),
  "let-out": ({ sha256 }) => ({
    title: "Let this picture out of quarantine?",
    text: "It may be sent again. Should it kill again, two more child processes are lost.",
    action: "Let it out",
    run: () => send("DELETE", `/v1/quarantine/${sha256}`),
  }),
  clear: () => ({
    title: "Let all pictures out of quarantine?",
    text: "They may be sent again. Each that kills again costs two more child processes.",
    action: "Let all out",
    run: () => send("DELETE", "/v1/quarantine"),
  }),
};

let asked = null;

// Ask, then do; `done` is called once it has succeeded.
export function propose(what, subject, done) {
  asked = { ...QUESTIONS[what](subject), done };
  setText(byId("confirm-title"), asked.title);
  setText(byId("confirm-text"), asked.text);
  setText(byId("confirm-error"), "");
  setText(yes, asked.action);
  yes.disabled = false;
  dialog.showModal();
  byId("confirm-no").focus();
}

byId("confirm-no").addEventListener("click", () => dialog.close());

yes.addEventListener("click", async () => {
  const question = asked;                // another may be asked before this one is done
  yes.disabled = true;
  try {
    await question.run();
    if (asked === question) dialog.close();
    question.done();
  } catch (error) {
    if (asked === question) setText(byId("confirm-error"), error.message);
  } finally {
    if (asked === question) yes.disabled = false;
  }
});

byId("let-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("let-in-name");
  try {
    setText(byId("let-in-line"), await send("POST", "/v1/join", { name: field.value.trim() }));
    field.value = "";
  } catch (error) {
    setText(byId("let-in-line"), error.message);
  }
});

byId("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("address");
  try {
    setText(byId("added"), await send("POST", "/v1/workers", { address: field.value.trim() }));
    field.value = "";
  } catch (error) {
    setText(byId("added"), error.message);
  }
});
