// The table of all queries: sorted, filtered and searched where it stands. Without this script it is a plain table.
(() => {
  "use strict";
  const table = document.getElementById("query-table");
  const form = document.getElementById("query-filters");
  if (!table || !form) return;
  const body = table.tBodies[0];
  const count = document.getElementById("query-count");
  const field = (name) => form.elements.namedItem(name);
  const heads = Array.from(table.tHead.rows[0].cells);
  const at = (name) => heads.findIndex((head) => head.dataset.column === name);
  const searched = ["query", "text", "aspects"].map(at).filter((column) => column >= 0);
  const rows = Array.from(body.rows, (row, place) => {
    const cells = Array.from(row.cells, (cell) => cell.textContent.trim());
    return { row, place, cells, text: searched.map((column) => cells[column]).join(" ").toLowerCase() };
  });
  const [kindAt, aspectAt, beforeAt, afterAt] = ["kind", "aspects", "before", "after"].map(at);
  const rank = (line, column) => {
    const value = column < 0 ? NaN : Number.parseInt(line.cells[column], 10);
    return Number.isNaN(value) ? Infinity : value;
  };
  const kindOf = (line) => (kindAt < 0 ? "" : line.row.cells[kindAt].firstElementChild?.textContent.trim() ?? "");
  const aspectsOf = (line) =>
    aspectAt < 0 ? [] : Array.from(line.row.cells[aspectAt].children, (part) => part.textContent.trim());
  const moves = {
    better: (line) => rank(line, afterAt) < rank(line, beforeAt),
    worse: (line) => rank(line, afterAt) > rank(line, beforeAt),
    same: (line) => rank(line, afterAt) === rank(line, beforeAt),
  };

  const filter = () => {
    const words = field("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = field("kind")?.value ?? "";
    const aspect = field("aspect")?.value ?? "";
    const leftOut = field("composition")?.value === "left-out";
    const move = moves[field("move")?.value ?? ""];
    let shown = 0;
    for (const line of rows) {
      const fits =
        words.every((word) => line.text.includes(word)) &&
        (!kind || kindOf(line) === kind) &&
        (!aspect || aspectsOf(line).includes(aspect)) &&
        (!leftOut || line.row.hasAttribute("data-left-out")) &&
        (!move || move(line));
      line.row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} queries shown`;
  };

  const compare = {
    number: (column) => (a, b) => rank(a, column) - rank(b, column) || 0,
    text: (column) => (a, b) => a.cells[column].localeCompare(b.cells[column], "en", { numeric: true }),
  };
  const sort = (column) => {
    const head = heads[column];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const by = compare[head.dataset.sort](column);
    rows.sort((a, b) => {
      const order = by(a, b);
      return (Number.isNaN(order) ? 0 : down ? -order : order) || a.place - b.place;
    });
    body.append(...rows.map((line) => line.row));
  };

  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });
  const leadTo = (link, name, value) =>
    link.addEventListener("click", () => {
      form.reset();
      field(name).value = value;
      filter();
    });
  for (const link of document.querySelectorAll("a[data-kind]")) leadTo(link, "kind", link.dataset.kind);
  for (const link of document.querySelectorAll("a[data-left-out]")) leadTo(link, "composition", "left-out");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.hidden = false;
  filter();
})();
