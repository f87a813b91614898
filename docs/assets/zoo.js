// The table of the zoo: a filter field above it, and headings that sort.
document.querySelectorAll(".zoo-table").forEach((holder) => {
  const body = holder.querySelector("tbody");
  const count = document.createElement("p");
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "filter";
  field.className = "md-input";
  holder.prepend(field, count);

  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${body.rows.length}`;
  };
  field.addEventListener("input", filter);
  filter();

  holder.querySelectorAll("th").forEach((heading, column) => {
    let descending = false;
    heading.style.cursor = "pointer";
    heading.addEventListener("click", () => {
      descending = !descending;
      const value = (row) => row.cells[column].textContent;
      const compare = (a, b) =>
        (value(a) === "") - (value(b) === "") ||
        (descending ? -1 : 1) * value(a).localeCompare(value(b), undefined, { numeric: true });
      body.append(...[...body.rows].sort(compare));
    });
  });
});
