"use strict";
// Shows the rows a page at a time, those that were asked for in the order that was asked for. Rows stay the
// lists that they are in the data; a page of them is made when it is shown.
(() => {
  const PAGE = 100;
  const [STATUS, FOLDER, GUEST, RELEASE, CARRIER, RULES, REASON, HINT] = [0, 1, 2, 3, 4, 5, 6, 7];
  const [NAME, TITLE, INPUT, OUTPUT, BEGAN, SECONDS, ATTEMPT, PROVEN, WARNINGS, TEXT, OFFSET] =
    [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18];
  const COLUMN = { status: STATUS, name: NAME, guest: GUEST, release: RELEASE, carrier: CARRIER, input: INPUT,
    output: OUTPUT, began: BEGAN, seconds: SECONDS, warnings: WARNINGS };
  const WORDS_END = HINT + 1; // what stands before is the number of a word

  const find = (id) => document.getElementById(id);
  const table = find("table");
  if (!table) return;
  const parsed = (node) => JSON.parse(node.textContent);
  const words = parsed(find("words"));
  const rows = [...document.querySelectorAll("script.rows")].flatMap(parsed);
  const value = (row, column) => (column < WORDS_END ? words[row[column]] : row[column]);

  // ---- values as texts, as the page has them without this script ----
  const grouped = (number) => number.toLocaleString("en-US");
  const size = (count) => {
    if (count === null) return "";
    if (count < 1024) return `${grouped(count)} B`;
    let unit = "";
    for (unit of ["KiB", "MiB", "GiB", "TiB", "PiB"]) {
      count /= 1024;
      if (count < 1024) break;
    }
    const rounded = Math.floor(count * 10 + 0.5) / 10;
    return `${rounded.toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} ${unit}`;
  };
  const duration = (seconds) => {
    if (seconds < 10) return `${(Math.floor(seconds * 100 + 0.5) / 100).toFixed(2)} s`;
    const whole = Math.floor(seconds + 0.5);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${grouped(Math.floor(whole / 3600))} h ${Math.floor((whole % 3600) / 60)} min`;
  };
  const moment = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
  const place = (offset) =>
    offset === null || offset === undefined ? "" : `offset 0x${offset.toString(16)} (${grouped(offset)})`;
  const view = (row) => ({
    status: words[row[STATUS]], proven: row[PROVEN] ? "proven" : "",
    attempt: row[ATTEMPT] > 1 ? `attempt ${row[ATTEMPT]}` : "",
    name: row[NAME], folder: words[row[FOLDER]], title: row[TITLE], reason: words[row[REASON]],
    text: row[TEXT] ?? "", place: place(row[OFFSET]), hint: words[row[HINT]],
    guest: words[row[GUEST]], release: words[row[RELEASE]], carrier: words[row[CARRIER]],
    input: size(row[INPUT]), output: size(row[OUTPUT]), began: moment(row[BEGAN]),
    seconds: duration(row[SECONDS]), warnings: row[WARNINGS] ? grouped(row[WARNINGS]) : "",
    rules: words[row[RULES]],
  });

  // ---- which rows, in which order ----
  const asked = { text: "", filters: {}, column: "status", direction: 1, page: 0 };
  let shown = rows;
  const holds = (row) => {
    for (const [column, word] of Object.entries(asked.filters)) if (row[column] !== word) return false;
    return [`${words[row[FOLDER]]}/${row[NAME]}`, row[TITLE], words[row[REASON]], row[TEXT] ?? "", words[row[RULES]]]
      .join("\n").toLowerCase().includes(asked.text);
  };
  const rank = words.map((word, number) => [word, number]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .reduce((ranks, [, number], place) => ((ranks[number] = place), ranks), []);
  const key = (row, column) => {
    if (column === STATUS) return words[row[STATUS]] === "failed" ? -1 : rank[row[STATUS]];
    return column < WORDS_END ? rank[row[column]] : row[column];
  };
  const missing = (row, column) => value(row, column) === null || value(row, column) === "";
  const sorted = (some) => {
    const column = COLUMN[asked.column];
    const there = some.filter((row) => !missing(row, column));
    const keyed = there.map((row) => [key(row, column), row]);
    keyed.sort(([a], [b]) => (a < b ? -asked.direction : a > b ? asked.direction : 0)); // it is stable
    return keyed.map(([, row]) => row).concat(some.filter((row) => missing(row, column)));
  };

  // ---- the page ----
  const template = find("row").content.querySelector("tr");
  const element = (row) => {
    const made = template.cloneNode(true);
    const texts = view(row);
    made.dataset.status = texts.status;
    for (const node of made.querySelectorAll("[data-field]")) node.textContent = texts[node.dataset.field];
    made.lastElementChild.title = texts.rules;
    return made;
  };
  const draw = () => {
    const first = asked.page * PAGE;
    const pages = Math.max(Math.ceil(shown.length / PAGE), 1);
    table.tBodies[0].replaceChildren(...shown.slice(first, first + PAGE).map(element));
    const all = `${grouped(rows.length)} image${rows.length === 1 ? "" : "s"}`;
    find("count").textContent = shown.length === rows.length ? all : `${grouped(shown.length)} of ${all}`;
    find("page").textContent = `page ${grouped(asked.page + 1)} of ${grouped(pages)}`;
    find("before").disabled = asked.page === 0;
    find("after").disabled = asked.page + 1 >= pages;
    find("pages").hidden = pages === 1;
    for (const head of table.querySelectorAll("[data-sort]")) {
      const by = head.dataset.sort === asked.column;
      if (by) head.setAttribute("aria-sort", asked.direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    find("order").value = asked.column;
    find("direction").value = String(asked.direction);
  };
  const update = () => {
    shown = sorted(rows.filter(holds));
    asked.page = 0;
    draw();
  };
  const turn = (pages) => {
    asked.page += pages;
    draw();
    find("images").scrollIntoView();
  };

  // ---- what is asked ----
  for (const select of document.querySelectorAll("[data-filter]")) {
    const column = COLUMN[select.dataset.filter];
    const counts = new Map();
    for (const row of rows) counts.set(row[column], (counts.get(row[column]) ?? 0) + 1);
    for (const [word, count] of [...counts].sort(([a], [b]) => rank[a] - rank[b]))
      select.add(new Option(`${words[word] || "unknown"} (${grouped(count)})`, word));
    select.addEventListener("change", () => {
      if (select.value === "") delete asked.filters[column];
      else asked.filters[column] = Number(select.value);
      update();
    });
  }
  let waiting = 0;
  find("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      asked.text = event.target.value.trim().toLowerCase();
      update();
    }, 100);
  });
  for (const head of table.querySelectorAll("[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const again = asked.column === head.dataset.sort;
      Object.assign(asked, { column: head.dataset.sort, direction: again ? -asked.direction : 1 });
      update();
    });
  }
  find("order").addEventListener("change", (event) => { asked.column = event.target.value; update(); });
  find("direction").addEventListener("change", (event) => { asked.direction = Number(event.target.value); update(); });
  find("before").addEventListener("click", () => turn(-1));
  find("after").addEventListener("click", () => turn(1));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("controls").hidden = false;
  update();
})();
