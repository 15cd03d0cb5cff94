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
    throw new Error("A token may contain only letters, digits and punctuation.");
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
  const reply = await response.json().catch(() => ({}));
  if (response.status === 401) {
    field.closest(".token").hidden = false;
    field.focus();
    const wrong = token !== "";
    token = "";
    if (wrong) throw new Error("That is not the admin token.");
  }
  if (!response.ok) throw new Error(reply.detail || `The server failed (${response.status}) without giving a reason.`);
  for (const shown of document.querySelectorAll(".token")) shown.hidden = true;
  return reply.detail;
}

const act = (...request) => send(byId("confirm-token"), ...request);

const holds = ({ in_flight: n }) => (n === 1 ? "the picture it holds" : `the ${n} pictures it holds`);

// Each as a question: what it is called, what it does, and how it is done.
const QUESTIONS = {
  drain: (worker) => ({
    title: `Drain ${worker.name}?`,
    text: `It gets no new pictures, finishes ${worker.in_flight ? holds(worker) : "any it still holds"}, then stops and stays away until started again.`,
    action: "Drain",
    run: () => act("DELETE", `/v1/workers/${worker.id}`),
  }),
  remove: (worker) => ({
    title: `Remove ${worker.name} at once?`,
    text: `${worker.in_flight ? `Other workers get ${holds(worker)}` : "It holds no picture"}. It stops now and stays away until started again.`,
    action: "Remove",
    run: () => act("DELETE", `/v1/workers/${worker.id}?now=1`),
  }),
  release: ({ sha256 }) => ({
    title: "Release this picture from quarantine?",
    text: "It may be sent again. If it crashes again, two more child processes are lost.",
    action: "Release",
    run: () => act("DELETE", `/v1/quarantine/${sha256}`),
  }),
  clear: () => ({
    title: "Release all pictures from quarantine?",
    text: "They may be sent again. Each that crashes again costs two more child processes.",
    action: "Release all",
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

// A form of one field: sent when it is submitted, and what came of it stands beside it.
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
