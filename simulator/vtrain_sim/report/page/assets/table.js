"use strict";
// Tables that can be sorted and filtered, a page of rows at a time.

vtrain.rowsPerPage = 50;
const FEW = 12;

// A filter: words that a row has, and comparisons with what a column shows: "tp=8 days<30 full".
vtrain.parseFilter = (text, rows) => {
  const tests = [];
  for (const word of text.trim().toLowerCase().split(/\s+/).filter(Boolean)) {
    const match = /^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/.exec(word);
    const column = match && rows.columns.find((c) => [c.name, c.title.replace(/\s/g, ""), c.title].some((n) => n.toLowerCase() === match[1]));
    if (column) tests.push(vtrain.comparison(rows, column, match[2], match[3]));
    else tests.push((row) => rows.words(row).includes(word));
  }
  return (row) => tests.every((test) => test(row));
};

vtrain.comparison = (rows, column, operator, operand) => {
  if (column.kind !== "number") {
    return (row) => {
      const equal = rows.text(column.name, row).toLowerCase() === operand;
      return operator === "!=" ? !equal : operator === "=" && equal;
    };
  }
  const limit = Number(operand.replace(/[$,%]/g, ""));
  const holds = {
    "<": (v) => v < limit,
    ">": (v) => v > limit,
    "<=": (v) => v <= limit,
    ">=": (v) => v >= limit,
    "=": (v) => Math.abs(v - limit) <= 5e-4 * Math.abs(limit),
    "!=": (v) => Math.abs(v - limit) > 5e-4 * Math.abs(limit),
  }[operator];
  return (row) => column.values[row] !== null && holds(column.values[row]);
};

// places: the rows to sort, by their numbers. Empty cells come last either way.
vtrain.sorted = (rows, places, name, descending) => {
  const sign = descending ? -1 : 1;
  return [...places].sort((a, b) => {
    const [x, y] = [rows.value(name, a), rows.value(name, b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return sign * order || a - b;
  });
};

// onChoose(row): called where a row is clicked; null: rows cannot be chosen.
vtrain.table = (title, rows, onChoose = null) => {
  const { element } = vtrain;
  const state = { filter: "", sort: null, descending: false, page: 0 };
  const body = element("tbody");
  const status = element("span", { class: "status", role: "status" });
  const heads = rows.columns.map((column) => {
    const button = element("button", { type: "button", title: `Sort by ${column.title}` }, vtrain.columnTitle(column));
    button.addEventListener("click", () => {
      // The first press sorts from the smallest, the next one turns the order around.
      if (state.sort === column.name) state.descending = !state.descending;
      else Object.assign(state, { sort: column.name, descending: false });
      state.page = 0;
      update();
    });
    const sortable = column.kind !== "flags";
    const attributes = { scope: "col", class: column.kind === "number" ? "number" : null, "aria-sort": sortable ? "none" : null };
    const head = element("th", attributes, sortable ? button : column.title);
    head.column = column;
    return head;
  });
  const table = element("table", {}, element("caption", { class: "hidden" }, title), element("thead", {}, element("tr", {}, heads)), body);
  const previous = element("button", { type: "button", class: "small", onclick: () => turn(-1) }, "Previous");
  const next = element("button", { type: "button", class: "small", onclick: () => turn(1) }, "Next");
  const pager = element("div", { class: "pager" }, previous, next);

  const turn = (by) => {
    state.page += by;
    update();
  };

  const cell = (column, row) => {
    if (column.kind === "flags") {
      const text = rows.value(column.name, row);
      return element("td", {}, text ? vtrain.copyButton(text, "Copy flags") : "–");
    }
    return element("td", { class: column.kind === "number" ? "number" : null }, rows.text(column.name, row));
  };

  const line = (row) => {
    const cells = rows.columns.map((column) => cell(column, row));
    const tr = element("tr", {}, cells);
    if (onChoose) {
      tr.classList.add("choosable");
      tr.addEventListener("click", (event) => event.target.closest("button") || onChoose(row));
    }
    return tr;
  };

  const update = () => {
    const keep = vtrain.parseFilter(state.filter, rows);
    let places = rows.places.filter(keep);
    if (state.sort) places = vtrain.sorted(rows, places, state.sort, state.descending);
    const pages = Math.max(1, Math.ceil(places.length / vtrain.rowsPerPage));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const from = state.page * vtrain.rowsPerPage;
    const shown = places.slice(from, from + vtrain.rowsPerPage);
    body.replaceChildren(...shown.map(line));
    for (const head of heads) {
      if (!head.hasAttribute("aria-sort")) continue;
      const direction = state.descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", head.column.name === state.sort ? direction : "none");
    }
    const all = vtrain.counted(rows.count, "row");
    const of = places.length === rows.count ? all : `${vtrain.number(places.length)} of ${all}`;
    status.textContent = pages > 1 ? `${vtrain.number(from + 1)}–${vtrain.number(from + shown.length)} of ${of}` : of;
    previous.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    pager.hidden = pages === 1;
  };

  const filter = element("input", {
    type: "search",
    placeholder: vtrain.filterHint(rows),
    "aria-label": `Filter the rows of ${title}: words, or comparisons with a column`,
  });
  filter.addEventListener("input", () => {
    Object.assign(state, { filter: filter.value, page: 0 });
    update();
  });
  update();
  const tools = element("div", { class: "tools" }, rows.count > FEW ? filter : null, status, pager);
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${title}` };
  return element("div", { class: "table" }, tools, element("div", region, table));
};

vtrain.filterHint = (rows) => {
  const examples = [["tp", "tp=8"], ["days", "days<30"], ["error", "error>10"], ["stage", "stage=0"]].filter(([name]) => rows.has(name));
  return examples.length ? `Filter: a word, or ${examples.map(([, text]) => text).join(" ")}` : "Filter: words";
};
