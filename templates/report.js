// Sorts a table by the column whose button is pressed: numbers in descending order, text in ascending order; pressed again, in
// the opposite order. Ties keep their order.
"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const number = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : number;
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      // A cell that was not measured has no value, and sorts below all values.
      const figure = (row) => (value(row) === "" ? -Infinity : Number(value(row)));
      const compare = number
        ? (a, b) => (figure(a) === figure(b) ? 0 : figure(a) - figure(b))
        : (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
