// Tables sort, figures enlarge, and prints show folded tables. Without this script, the page shows
// the same content.
"use strict";

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const LETTERS = new Intl.Collator("en", { numeric: true });
const NUMBER = /^[+-]?(\d[\d,]*(\.\d*)?|\.\d+)(e[+-]?\d+)?(?![\w.:/-])/i;

// What a cell is sorted by: its first number, else its text. Null if it has no letter and no digit.
function sortKey(cell) {
  const text = cell.textContent.trim();
  if (!/[\p{L}\p{N}]/u.test(text)) return null;
  const number = NUMBER.exec(text);
  return number ? Number(number[0].replaceAll(",", "")) : text;
}

// Numbers stand before texts.
function compare(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : LETTERS.compare(a, b);
}

// The rows in order of one column. Missing values are last in both directions.
function sorted(rows, column, order) {
  if (order === "none") return rows;
  const keyed = rows.map((row) => [sortKey(row.cells[column]), row]);
  const sign = order === "ascending" ? 1 : -1;
  return keyed
    .sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)))
    .map(([, row]) => row);
}

// Headers become buttons: one click sorts up, the second down, the third as before.
function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells].filter((header) => header.textContent.trim());
  for (const header of headers) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = NEXT[header.getAttribute("aria-sort")];
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", order);
      body.append(...sorted(rows, header.cellIndex, order));
    });
  }
}

// A click on the figure shows it in the dialog, as wide as the window or wider.
function makeEnlargeable(image) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  button.title = "Enlarge";
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    dialog.append(image.cloneNode());
    dialog.showModal();
  });
}

const dialog = document.querySelector("dialog");
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => dialog.querySelector("img").remove());
document.querySelectorAll("figure img").forEach(makeEnlargeable);
document.querySelectorAll("table").forEach(makeSortable);

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});
