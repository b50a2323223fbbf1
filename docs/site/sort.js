// Tables after <span class="sortable"></span> are sorted by a click on a header. Cells that begin
// with a number are sorted by it, and come before those that do not.
const read = (row, i) => {
  const text = row.cells[i].textContent.trim().replace("−", "-");
  return Number.isNaN(parseFloat(text)) ? text : parseFloat(text);
};

const compare = (x, y) =>
  typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === "number" ? -1 : 1;

for (const mark of document.querySelectorAll(".sortable")) {
  let place = mark.closest("p");
  while (place && !place.matches("table") && !place.querySelector("table"))
    place = place.nextElementSibling;
  const table = place && (place.matches("table") ? place : place.querySelector("table"));
  if (!table) continue;
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.style.cssText = "font: inherit; color: inherit; cursor: pointer; text-align: inherit";
    button.title = "Sort";
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(read(a, i), read(b, i)) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}
