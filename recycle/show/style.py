"""The looks of the report page, and the script that sorts and filters its tables."""

STYLE = """
:root { --ink: #1c1c1c; --line: #ddd; --soft: #666; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 0 auto; padding: 1rem;
  color: var(--ink); }
h1 { font-size: 1.5rem; margin: .4rem 0; } h2 { font-size: 1.2rem; margin: 1.8rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.lead { font-size: 1.1rem; max-width: 60rem; } .lead p { margin: .5rem 0; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .92em; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 11rem; }
td small, p small { color: var(--soft); }
.sortable th { cursor: pointer; } .sortable th:hover { text-decoration: underline; }
th[aria-sort=ascending]::after { content: " \\25b2"; font-size: .7em; }
th[aria-sort=descending]::after { content: " \\25bc"; font-size: .7em; }
.filter { margin: .6rem 0; } .filter label { margin-right: .9rem; white-space: nowrap; }
.good { color: #11682f; } .bad { color: #a11212; } .open { color: #7a5b00; }
img { max-width: 100%; height: auto; }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; }
details { margin: .5rem 0; } summary { cursor: pointer; font-weight: 600; }
.figure { overflow-x: auto; }
@media (max-width: 600px) {
  .figure img { max-width: none; width: 44rem; }
  .stack, .stack tbody, .stack tr, .stack td { display: block; text-align: left; border: 0; }
  .stack tr:first-child { display: none; } .stack tr { border-bottom: 1px solid var(--line); }
  .stack td { padding: .1rem 0; white-space: normal; } .stack td:first-child { font-weight: 600; }
 body { font-size: 14px; padding: .6rem; } th, td { padding: .15rem .3rem; }
  td:first-child { white-space: normal; min-width: 8.5rem; } td.text { min-width: 8rem; } }
"""

# A click on a table's head sorts its lines; the boxes hide the lines of a family in all tables.
SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const body = table.tBodies[0];
  const value = (row, i) => {
    const text = row.cells[i] ? row.cells[i].textContent.trim() : "";
    if (i === 0) return text;
    return isNaN(parseFloat(text)) ? -Infinity : parseFloat(text);
  };
  table.querySelectorAll("thead th").forEach((head, i) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    [...body.rows].sort((a, b) => {
      const x = value(a, i), y = value(b, i);
      const order = typeof x === "number" && typeof y === "number" ? x - y
        : String(x).localeCompare(String(y));
      return down ? -order : order;
    }).forEach(row => body.append(row));
  }));
});
document.querySelectorAll(".filter input").forEach(box => box.addEventListener("change", () => {
  document.querySelectorAll(`tr[data-family="${box.value}"]`)
    .forEach(row => { row.hidden = !box.checked; });
}));
"""
