// What an operator may do from the status page. Whatever harms asks before.

import { byId, setText } from "./ask.js";

const dialog = byId("confirm");
const yes = byId("confirm-yes");

// The admin token, once somebody has typed it. Kept in this page's memory only: what is stored could
// be read by whoever sits down here next.
let token = "";

// Does it; where that needs the token, `field` is shown and asked.
async function send(field, method, url, body) {
  if (field.value) token = field.value;
  field.value = "";
  if (!/^[!-~]*$/.test(token)) {
    token = "";
    throw new Error("A token consists of letters, digits and signs only.");
  }
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The web server does not answer. Try again.");
  }
  const told = await response.json().catch(() => ({}));
  if (response.status === 401) {
    field.closest(".token").hidden = false;
    field.focus();
    const wrong = token !== "";
    token = "";
    if (wrong) throw new Error("That is not the admin token.");
  }
  if (!response.ok) throw new Error(told.detail || `The server said ${response.status} and nothing more.`);
  for (const shown of document.querySelectorAll(".token")) shown.hidden = true;
  return told.detail;
}

const act = (...request) => send(byId("confirm-token"), ...request);

const holds = ({ in_flight: n }) => (n === 1 ? "the picture it holds" : `the ${n} pictures it holds`);

// Each as a question: what it is called, what it does, and how it is done.
const QUESTIONS = {
  drain: (worker) => ({
    title: `Drain ${worker.name}?`,
    text: `It gets no more pictures, finishes ${worker.in_flight ? holds(worker) : "what it holds"}, and ends. To have it back, start it again.`,
    action: "Drain",
    run: () => act("DELETE", `/v1/workers/${worker.id}`),
  }),
  remove: (worker) => ({
    title: `Remove ${worker.name} at once?`,
    text: `${worker.in_flight ? `Other workers get ${holds(worker)}` : "It holds no picture"}, and it ends. To have it back, start it again.`,
    action: "Remove",
    run: () => act("DELETE", `/v1/workers/${worker.id}?now=1`),
  }),
  "let-out": ({ sha256 }) => ({
    title: "Let this picture out of quarantine?",
    text: "It may be sent again. Should it kill again, two more child processes are lost.",
    action: "Let it out",
    run: () => act("DELETE", `/v1/quarantine/${sha256}`),
  }),
  clear: () => ({
    title: "Let all pictures out of quarantine?",
    text: "They may be sent again. Each that kills again costs two more child processes.",
    action: "Let all out",
    run: () => act("DELETE", "/v1/quarantine"),
  }),
};

let asked = null;

// Ask, then do; `done` is called once it has succeeded.
export function propose(what, subject, done) {
  asked = { ...QUESTIONS[what](subject), done };
  setText(byId("confirm-title"), asked.title);
  setText(byId("confirm-text"), asked.text);
  setText(byId("confirm-error"), "");
  byId("confirm-token").closest(".token").hidden = true;
  setText(yes, asked.action);
  yes.disabled = false;
  dialog.showModal();
  byId("confirm-no").focus();
}

byId("confirm-token").addEventListener("keydown", ({ key }) => { if (key === "Enter") yes.click(); });

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

// A form of one field: sent when it is submitted, and what comes of it told beside it.
function listen(form, field, output, tokenField, url, key) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      setText(output, await send(tokenField, "POST", url, { [key]: field.value.trim() }));
      field.value = "";
    } catch (error) {
      setText(output, error.message);
    }
  });
}

listen(byId("let-in"), byId("let-in-name"), byId("let-in-line"), byId("let-in-token"), "/v1/join", "name");
listen(byId("add"), byId("address"), byId("added"), byId("add-token"), "/v1/workers", "address");
