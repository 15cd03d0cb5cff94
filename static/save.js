// The answers as a file: CSV for a spreadsheet, JSON for a program.

const RANKS = [1, 2, 3, 4, 5];
const COLUMNS = [
  "file", ...RANKS.flatMap((n) => [`label_${n}`, `probability_${n}`]),
  "worker", "attempts", "total_ms", "request_id", "error",
];

// A spreadsheet takes a cell that begins so for a formula: a file's name must not become one.
const FORMULA = /^[=+\-@\t\r]/;

function cell(value) {
  const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function row({ name, answer, problem }) {
  const ranked = RANKS.flatMap((n) => {
    const prediction = answer?.predictions[n - 1];
    return [prediction?.label, prediction?.probability];
  });
  const error = problem ? `${problem.message}: ${problem.fields.detail}` : answer ? "" : "not processed";
  return [name, ...ranked, answer?.worker, answer?.attempts, answer?.timings_ms.total, answer?.request_id, error];
}

export function csv(items) {
  return [COLUMNS, ...items.map(row)].map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

export function json(items) {
  const rows = items.map(({ name, answer, problem }) => ({
    file: name,
    ...answer,
    ...(problem ? { error: { title: problem.message, ...problem.fields } } : {}),
  }));
  return `${JSON.stringify(rows, null, 2)}\n`;
}

function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

// The mark of UTF-8 in front lets spreadsheets read names in any script.
export const saveCsv = (items) => save(`\ufeff${csv(items)}`, "spyglass.csv", "text/csv");
export const saveJson = (items) => save(json(items), "spyglass.json", "application/json");
